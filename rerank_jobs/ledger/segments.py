"""Segments: paid replies as immutable Arrow files, without any text.

A segment carries the SHA-256 of its own bytes, because Arrow IPC has no checksum: a zeroed block
would read back as other scores, or as none.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from rerank_jobs.contracts import arrow_schema, contract_versions
from rerank_jobs.model import Failed, Outcome, Request, Scored

__all__ = [
    "PackedReply",
    "decode_segment",
    "encode_replies",
    "encode_rows",
    "encode_segment",
    "make_free_rows",
    "pack_reply",
    "segment_name",
]

_REPLY_BYTES = 250
"""What a reply weighs in a segment beside its keys and scores, uncompressed."""

_NO_DIGEST = hashlib.sha256(b"rerank-jobs segment").hexdigest().encode()
"""Stands for the digest in the bytes that are digested."""


def segment_name(folder: str, epoch: int, sequence: int) -> str:
    """Return a segment's name; names sort as (epoch, sequence)."""
    return f"{folder}/seg/{epoch:08d}-{sequence:06d}.arrow"


def encode_segment(outcomes: list[Outcome], plan_id: str) -> bytes:
    """Return the Arrow IPC file of some outcomes, in order; it holds no text."""
    return encode_replies([pack_reply(outcome) for outcome in outcomes], plan_id)


def encode_replies(packed: list[PackedReply], plan_id: str) -> bytes:
    """Return the Arrow IPC file of some packed outcomes, in order."""
    return encode_rows(_make_batch(packed, plan_id, _blank_schema()))


def encode_rows(rows: pa.RecordBatch) -> bytes:
    """Return the Arrow IPC file of rows of the contract ``ledger``."""
    schema = _blank_schema()
    batch = rows.replace_schema_metadata(schema.metadata)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    data = bytes(sink.getvalue())
    return data.replace(_NO_DIGEST, hashlib.sha256(data).hexdigest().encode())


def make_free_rows(pairs: pa.Table, plan_id: str) -> pa.RecordBatch:
    """Return rows of the contract ``ledger`` for scores that nothing is sent or paid for.

    ``pairs`` has the columns of the contract ``library``; one row becomes one row.
    """
    count = pairs.num_rows
    columns = {
        "request": pa.array(range(count)),
        "passage_keys": _make_singles(pairs.column("passage_key")),
        "scores": _make_singles(pairs.column("score")),
        "plan_id": pa.array([plan_id] * count, pa.string()),
        "cost_estimated": pa.array([False] * count),
    }
    zeros = pa.array([0] * count, pa.int32())
    free = ("search_units", "planned_units", "cost_usd", "attempts", "latency_seconds")
    columns.update(dict.fromkeys(free, zeros))
    arrays = []
    for field in arrow_schema("ledger"):
        if field.name in pairs.schema.names:
            value = pairs.column(field.name).combine_chunks()
        else:
            value = columns.get(field.name, pa.nulls(count))
        arrays.append(value.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema("ledger"))


def _make_singles(values: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    """Return lists of one value each."""
    offsets = pa.array(range(len(values) + 1), pa.int32())
    return pa.ListArray.from_arrays(offsets, values.combine_chunks())


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
class PackedReply:
    """An outcome, without its texts, beside its passage keys and scores as Arrow's bytes.

    Packed as it arrives, while its objects are in the cache: the thread that seals then joins
    bytes, where walking thousands of keys and scores took it twice as long. The texts of a
    thousand passages may be 16 MB; what is kept of them is 24 KB.
    """

    outcome: Outcome
    keys: bytes
    scores: bytes

    @property
    def weight(self) -> int:
        """Its bytes in a segment, before compression."""
        return len(self.keys) + len(self.scores) + _REPLY_BYTES

    @property
    def usd(self) -> float:
        """What was paid for it."""
        return self.outcome.cost_usd if isinstance(self.outcome, Scored) else 0.0


def pack_reply(outcome: Outcome) -> PackedReply:
    """Return what a segment holds of an outcome; it gives its scores back in no other way."""
    request = outcome.request
    keys = b"".join([passage.key for passage in request.passages])
    bare = Request(request.number, request.query_key, "", (), request.search_units)
    if isinstance(outcome, Failed):
        return PackedReply(dataclasses.replace(outcome, request=bare), keys, b"")
    scores = array("d", outcome.scores).tobytes()
    return PackedReply(dataclasses.replace(outcome, request=bare, scores=()), keys, scores)


def _make_batch(packed: list[PackedReply], plan_id: str, schema: pa.Schema) -> pa.RecordBatch:
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
