"""Segments: paid replies, sealed before anything else happens to them.

A reply is *unsaved* from the moment it arrives until the segment that holds it is created. Unsaved
replies are bounded by count, seconds and dollars; while a seal lags, ``accept`` waits, so nothing
is dropped and admission stops. Sealing runs in a thread: the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from rerank_jobs.config import Ledger as LedgerBounds
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import StateError
from rerank_jobs.model import Outcome, Scored
from rerank_jobs.storage import Put, Store

__all__ = ["SegmentWriter", "encode_segment", "segment_name"]


def segment_name(folder: str, epoch: int, sequence: int) -> str:
    """Return a segment's name; names sort as (epoch, sequence)."""
    return f"{folder}/seg/{epoch:08d}-{sequence:06d}.arrow"


def encode_segment(outcomes: list[Outcome], plan_id: str) -> bytes:
    """Return the Arrow IPC file of some outcomes, in order; it holds no text."""
    schema = arrow_schema("ledger")
    rows = [_row(outcome, plan_id) for outcome in outcomes]
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _row(outcome: Outcome, plan_id: str) -> dict[str, Any]:
    request = outcome.request
    row: dict[str, Any] = {
        "request": request.number,
        "query_key": request.query_key,
        "passage_keys": [passage.key for passage in request.passages],
        "planned_units": request.search_units,
        "attempts": outcome.attempts,
        "received_at": datetime.fromtimestamp(outcome.received_at, UTC),
        "plan_id": plan_id,
    }
    if not isinstance(outcome, Scored):
        nothing = {"scores": [], "cost_usd": 0.0, "cost_estimated": False, "latency_seconds": 0.0}
        return row | nothing | {"error": outcome.code}
    return row | {
        "scores": list(outcome.scores),
        "search_units": outcome.usage.search_units,
        "total_tokens": outcome.usage.total_tokens,
        "cost_usd": outcome.cost_usd,
        "cost_estimated": outcome.cost_estimated,
        "response_id": outcome.response_id,
        "provider": outcome.provider,
        "model": outcome.model,
        "latency_seconds": outcome.latency_seconds,
    }


@dataclass
class SegmentWriter:
    """Seals the outcomes of one process on one shard; use it as an async context.

    Leaving the context seals what is left, whatever the reason for leaving.
    """

    store: Store
    folder: str
    epoch: int
    plan_id: str
    bounds: LedgerBounds
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Start with nothing unsaved."""
        self._unsaved: list[Outcome] = []
        self._usd = 0.0
        self._oldest = 0.0
        self._sequence = 0
        self._sealing = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
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
        """Seal what is left."""
        if self._timer is not None:
            self._timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._timer
        await asyncio.shield(self.seal())

    async def accept(self, outcome: Outcome) -> None:
        """Take an outcome; return once it is within the bounds of what may be unsaved.

        Raises:
            OSError: the disk refused a segment; the outcomes stay unsaved and are tried again.

        """
        if self._failure is not None:
            raise self._failure
        if not self._unsaved:
            self._oldest = self.clock()
        self._unsaved.append(outcome)
        self._usd += outcome.cost_usd if isinstance(outcome, Scored) else 0.0
        if (
            len(self._unsaved) >= self.bounds.max_unsaved_replies
            or self._usd >= self.bounds.max_unsaved_usd
            or self.clock() - self._oldest >= self.bounds.max_unsaved_seconds
        ):
            await self.seal()

    async def seal(self) -> None:
        """Seal everything unsaved into one segment."""
        async with self._sealing:
            outcomes = self._unsaved
            if not outcomes:
                return
            usd, self._unsaved, self._usd = self._usd, [], 0.0
            name = segment_name(self.folder, self.epoch, self._sequence)
            try:
                await asyncio.to_thread(self._put, name, outcomes)
            except BaseException:
                self._unsaved = outcomes + self._unsaved
                self._usd += usd
                raise
            self._sequence += 1
            self.sealed += len(outcomes)

    def _put(self, name: str, outcomes: list[Outcome]) -> None:
        if self.store.put_if_absent(name, encode_segment(outcomes, self.plan_id)) is Put.OTHER:
            raise StateError(
                f"{self.store.location}/{name}: another process wrote this segment under our claim:"
                " do not run two copies of one owner"
            )

    async def _seal_by_age(self) -> None:
        while True:
            await asyncio.sleep(self.bounds.max_unsaved_seconds / 2)
            if self._unsaved and self.clock() - self._oldest >= self.bounds.max_unsaved_seconds / 2:
                try:
                    await self.seal()
                except (OSError, StateError) as error:
                    self._failure = error
                    return
