"""Sealing: paid replies are put into segments before anything else happens to them.

A reply is *unsaved* from the moment it arrives until the segment that holds it is created. Unsaved
replies are bounded by count, bytes, seconds and dollars; while a seal lags, ``accept`` waits, so
nothing is dropped and admission stops. Sealing runs in a thread: the event loop never waits for a
disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rerank_jobs.config import Ledger as LedgerBounds
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.segments import PackedReply, encode_replies, pack_reply, segment_name
from rerank_jobs.model import Outcome
from rerank_jobs.storage import Put, Store

__all__ = ["SegmentWriter"]

CLOSING_PAUSES = (0.2, 1.0)
"""Seconds before the last seal is tried again: after it, what a disk refused is lost."""


@dataclass
class SegmentWriter:
    """Seals the outcomes of one process on one shard; use it as an async context.

    Its segments are numbered from ``first``. Leaving the context seals what is left, whatever the
    reason for leaving.
    """

    store: Store
    folder: str
    epoch: int
    plan_id: str
    bounds: LedgerBounds
    clock: Callable[[], float] = time.monotonic
    first: int = 0

    def __post_init__(self) -> None:
        """Start with nothing unsaved."""
        self._unsaved: list[PackedReply] = []
        self._batch: list[PackedReply] = []
        self._usd = 0.0
        self._bytes = 0
        self._oldest = 0.0
        self._sequence = self.first
        self._sealing = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self.sealed = 0

    async def __aenter__(self) -> Self:
        """Start the timer that bounds the age of unsaved replies."""
        self._timer = asyncio.create_task(self._seal_by_age())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Seal what is left; to be cancelled meanwhile does not stop that.

        Raises:
            OSError: the disk refused the last seal three times; what was unsaved is lost.
            StateError: see ``accept``.

        """
        closing = asyncio.create_task(self._close())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait({closing})
            raise

    async def accept(self, outcome: Outcome) -> None:
        """Take an outcome; return once what is unsaved is within its bounds again.

        Raises:
            OSError: the disk refused a segment; the outcomes stay unsaved and are tried again.
            StateError: another process writes segments under the same claim; nothing is lost.

        """
        if not self._unsaved:
            self._oldest = self.clock()
        packed = pack_reply(outcome)
        self._unsaved.append(packed)
        self._usd += packed.usd
        self._bytes += packed.weight
        if self._failure is not None:
            raise self._failure
        if self._is_due():
            async with self._sealing:
                if self._is_due():  # not if another one's seal has just brought it down
                    await self._seal()

    @property
    def unsealed_usd(self) -> float:
        """What was paid for replies that are not sealed (yet), in dollars."""
        return sum(item.usd for item in (*self._batch, *self._unsaved))

    async def seal(self) -> None:
        """Seal everything that is unsaved now."""
        async with self._sealing:
            await self._seal()

    def _is_due(self) -> bool:
        return (
            len(self._batch) + len(self._unsaved) >= self.bounds.max_unsaved_replies
            or self._bytes >= self.bounds.max_unsaved_bytes
            or self._usd >= self.bounds.max_unsaved_usd
            or (bool(self._unsaved) and self._age() >= self.bounds.max_unsaved_seconds)
        )

    def _age(self) -> float:
        return self.clock() - self._oldest

    async def _seal(self) -> None:
        await self._put_batch()
        self._batch, self._unsaved = self._unsaved, []
        await self._put_batch()

    async def _put_batch(self) -> None:
        """Put the batch; whatever interrupts that, the next try has the same name and bytes.

        So a put that took effect although it failed, or goes on in its thread, is recognised.
        """
        if not self._batch:
            return
        name = segment_name(self.folder, self.epoch, self._sequence)
        put = await asyncio.shield(asyncio.to_thread(self._put, name, self._batch))
        self._sequence += 1
        if put is Put.OTHER:  # theirs stays: the next try puts ours beside it
            raise StateError(
                f"{self.store.location}/{name}: another process wrote this segment under our claim:"
                " do not run two copies of one owner"
            )
        self.sealed += len(self._batch)
        self._batch = []
        self._usd = sum(item.usd for item in self._unsaved)
        self._bytes = sum(item.weight for item in self._unsaved)

    def _put(self, name: str, packed: list[PackedReply]) -> Put:
        return self.store.put_if_absent(name, encode_replies(packed, self.plan_id))

    async def _seal_by_age(self) -> None:
        half = self.bounds.max_unsaved_seconds / 2
        while True:
            await asyncio.sleep(half)
            if self._unsaved and self._age() >= half:
                try:
                    await self.seal()
                except Exception as error:  # noqa: BLE001 - raised by the next accept
                    self._failure = error
                    return

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.wait({self._timer})
        for pause in CLOSING_PAUSES:
            try:
                await self.seal()
            except OSError:
                await asyncio.sleep(pause)
            except StateError:
                await self.seal()  # beside the stranger's, which is told nevertheless
                raise
            else:
                return
        await self.seal()
