"""Segments: paid replies, sealed before anything else happens to them.

A reply is *unsaved* from the moment it arrives until the segment that holds it is created. Unsaved
replies are bounded by count, seconds and dollars; while a seal lags, ``accept`` waits, so nothing
is dropped and admission stops. Sealing runs in a thread: the event loop never waits for a disk.

A segment carries the SHA-256 of its own bytes, because Arrow IPC has no checksum: a zeroed block
would read back as other scores, or as none.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from rerank_jobs.config import Ledger as LedgerBounds
from rerank_jobs.contracts import arrow_schema, contract_versions
from rerank_jobs.errors import StateError
from rerank_jobs.model import Outcome, Scored
from rerank_jobs.storage import Put, Store

__all__ = ["SegmentWriter", "decode_segment", "encode_rows", "encode_segment", "segment_name"]

_NO_DIGEST = hashlib.sha256(b"rerank-jobs segment").hexdigest().encode()
"""Stands for the digest in the bytes that are digested."""


def segment_name(folder: str, epoch: int, sequence: int) -> str:
    """Return a segment's name; names sort as (epoch, sequence)."""
    return f"{folder}/seg/{epoch:08d}-{sequence:06d}.arrow"


def encode_segment(outcomes: list[Outcome], plan_id: str) -> bytes:
    """Return the Arrow IPC file of some outcomes, in order; it holds no text."""
    return _encode([_pack(outcome) for outcome in outcomes], plan_id)


def _encode(packed: list[_Packed], plan_id: str) -> bytes:
    return encode_rows(_make_batch(packed, plan_id, _blank_schema()))


def encode_rows(rows: pa.RecordBatch) -> bytes:
    """Return the Arrow IPC file of rows of the contract ``ledger``."""
    schema = _blank_schema()
    batch = rows.replace_schema_metadata(schema.metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch)
    data = bytes(sink.getvalue())
    return data.replace(_NO_DIGEST, hashlib.sha256(data).hexdigest().encode())


@functools.cache
def _blank_schema() -> pa.Schema:
    """Return the schema of a segment that does not have its digest yet."""
    metadata = {"contract": "ledger", "version": str(contract_versions()["ledger"])}
    return arrow_schema("ledger").with_metadata({**metadata, "sha256": _NO_DIGEST})


def decode_segment(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a segment, or only some of its columns, which takes a quarter of the time.

    Raises:
        ValueError: it is torn, changed, of another version, or no segment.

    """
    schema = arrow_schema("ledger")
    if columns is not None:
        schema = pa.schema([field for field in schema if field.name in columns])
    try:
        buffer = pa.py_buffer(data)
        wanted = []  # none stands for all
        if columns is not None:
            with pa.ipc.open_file(buffer) as reader:
                names = reader.schema.names
            wanted = [names.index(name) for name in columns if name in names]
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        with pa.ipc.open_file(buffer, options=options) as reader:
            digest = (reader.schema.metadata or {}).get(b"sha256", b"")
            blank = data.replace(digest, _NO_DIGEST) if len(digest) == len(_NO_DIGEST) else b""
            if hashlib.sha256(blank).hexdigest().encode() != digest:
                raise ValueError("the bytes of a segment do not fit its SHA-256")
            table = _add_parts(reader.read_all().replace_schema_metadata(None), schema)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a segment ({type(error).__name__})") from None
    if table.schema != schema:
        raise ValueError("a segment of another version")
    return table


def _add_parts(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring a table of version 1, which has no column ``parts``, up to date."""
    if "parts" in table.schema.names or "parts" not in schema.names:
        return table
    return table.append_column(schema.field("parts"), pa.nulls(table.num_rows, pa.int32()))


@dataclass(frozen=True, slots=True)
class _Packed:
    """An outcome beside its passage keys and scores as the bytes of Arrow arrays.

    Packed as it arrives, while its objects are in the cache: the thread that seals then joins
    bytes, where walking thousands of keys and scores took it twice as long.
    """

    outcome: Outcome
    keys: bytes
    scores: bytes


def _pack(outcome: Outcome) -> _Packed:
    keys = b"".join([passage.key for passage in outcome.request.passages])
    scores = array("d", outcome.scores).tobytes() if isinstance(outcome, Scored) else b""
    return _Packed(outcome, keys, scores)


def _make_batch(packed: list[_Packed], plan_id: str, schema: pa.Schema) -> pa.RecordBatch:
    """Return one row per outcome, made column by column."""
    outcomes = [item.outcome for item in packed]
    requests = [outcome.request for outcome in outcomes]
    columns: dict[str, Any] = {
        "request": [request.number for request in requests],
        "query_key": [request.query_key for request in requests],
        "planned_units": [request.search_units for request in requests],
        "attempts": [outcome.attempts for outcome in outcomes],
        "received_at": [_count_microseconds(outcome.received_at) for outcome in outcomes],
        "plan_id": [plan_id] * len(outcomes),
        **_make_reply_columns(outcomes),
    }
    lists = {
        "passage_keys": _make_lists([item.keys for item in packed], pa.binary(16)),
        "scores": _make_lists([item.scores for item in packed], pa.float64()),
    }
    arrays = [
        lists[field.name] if field.name in lists else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _make_reply_columns(outcomes: list[Outcome]) -> dict[str, list[Any]]:
    """Return what replies alone have; a failure has its code there, and costs nothing."""
    replies = [outcome if isinstance(outcome, Scored) else None for outcome in outcomes]
    return {
        "error": [None if isinstance(outcome, Scored) else outcome.code for outcome in outcomes],
        "search_units": [reply and reply.usage.search_units for reply in replies],
        "total_tokens": [reply and reply.usage.total_tokens for reply in replies],
        "cost_usd": [reply.cost_usd if reply else 0.0 for reply in replies],
        "cost_estimated": [reply.cost_estimated if reply else False for reply in replies],
        "response_id": [reply and reply.response_id for reply in replies],
        "provider": [reply and reply.provider for reply in replies],
        "model": [reply and reply.model for reply in replies],
        "latency_seconds": [reply.latency_seconds if reply else 0.0 for reply in replies],
        "parts": [reply.parts if reply and reply.parts > 1 else None for reply in replies],
    }


def _count_microseconds(instant: float) -> int:
    # Not instant * 1e6, which rounds twice.
    return int(instant) * 1_000_000 + round(instant % 1 * 1e6)


def _make_lists(lists: list[bytes], value_type: pa.DataType) -> pa.Array[Any]:
    """Return a list array of values of fixed width, each list given as its values' bytes."""
    data = b"".join(lists)
    width = value_type.bit_width // 8
    values = pa.Array.from_buffers(value_type, len(data) // width, [None, pa.py_buffer(data)])
    offsets = pa.array(accumulate((len(part) // width for part in lists), initial=0), pa.int32())
    return pa.ListArray.from_arrays(offsets, values)


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
        self._unsaved: list[_Packed] = []
        self._batch: list[_Packed] = []
        self._usd = 0.0
        self._oldest = 0.0
        self._sequence = 0
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
        """Seal what is left; to be cancelled meanwhile does not stop that."""
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
        self._unsaved.append(_pack(outcome))
        self._usd += _cost(outcome)
        if self._failure is not None:
            raise self._failure
        if self._is_due():
            async with self._sealing:
                if self._is_due():  # not if another one's seal has just brought it down
                    await self._seal()

    async def seal(self) -> None:
        """Seal everything that is unsaved now."""
        async with self._sealing:
            await self._seal()

    def _is_due(self) -> bool:
        return (
            len(self._batch) + len(self._unsaved) >= self.bounds.max_unsaved_replies
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
        self._usd = sum(_cost(item.outcome) for item in self._unsaved)

    def _put(self, name: str, packed: list[_Packed]) -> Put:
        return self.store.put_if_absent(name, _encode(packed, self.plan_id))

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
        await self.seal()


def _cost(outcome: Outcome) -> float:
    return outcome.cost_usd if isinstance(outcome, Scored) else 0.0
