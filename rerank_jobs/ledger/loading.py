"""Reading segments back: one score per pair, whatever was sent twice, and what it all cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.ledger.segments import decode_segment
from rerank_jobs.storage import Entry, Store

__all__ = ["Loaded", "Spent", "list_segments", "load_segments"]

PAIRS = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the columns to object
        ("query_key", pa.binary(16)),
        ("passage_key", pa.binary(16)),
        ("score", pa.float64()),
        ("error", pa.string()),
        ("model", pa.string()),
        ("provider", pa.string()),
        ("received_at", pa.timestamp("us", tz="UTC")),
        ("parts", pa.int32()),
        ("carried", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Spent:
    """What sealed replies cost: replies, units (reported, else planned), dollars; pairs refused.

    ``segments_ignored`` are torn, changed or foreign: what they cost nobody can tell.
    """

    requests: int = 0
    search_units: int = 0
    planned_units: int = 0
    cost_usd: float = 0.0
    passages_failed: int = 0
    segments_ignored: int = 0

    def plus(self, other: Spent) -> Spent:
        """Add two sums field by field."""
        return Spent(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """Sealed pairs: a table ``PAIRS`` with one row per pair, their cost, and segments ignored.

    ``carried`` scores were paid for elsewhere: this run took them over, without a request.
    """

    pairs: pa.Table
    spent: Spent
    segments: tuple[str, ...]
    torn: tuple[str, ...]

    def keys(self) -> set[bytes]:
        """Return ``query_key + passage_key`` of every pair that needs no request."""
        queries: list[Any] = self.pairs.column("query_key").to_pylist()
        passages: list[Any] = self.pairs.column("passage_key").to_pylist()
        return {query + passage for query, passage in zip(queries, passages, strict=True)}


def load_segments(store: Store, folder: str, plan_id: str | None = None) -> Loaded:
    """Load all segments under ``folder`` in (epoch, sequence) order.

    A pair that was paid twice keeps the first score by (epoch, sequence, row); a score beats a
    refusal. A torn segment, or one of another plan, is left out and named in ``torn``.
    """
    tables, good, torn = [], [], []
    for name in list_segments(store, folder):
        table = _read(store, name, plan_id)
        if table is None:
            torn.append(name)
        else:
            tables.append(table)
            good.append(name)
    ledger = pa.concat_tables(tables) if tables else arrow_schema("ledger").empty_table()
    pairs = _first_of_each(_explode(ledger))
    refused = pairs.num_rows - pairs.column("error").null_count
    spent = dataclasses.replace(
        _add_up(ledger), passages_failed=refused, segments_ignored=len(torn)
    )
    return Loaded(pairs, spent, tuple(good), tuple(torn))


def list_segments(store: Store, folder: str) -> list[str]:
    """Return the names of all segments under ``folder`` by shard, epoch and sequence."""
    return [entry.name for entry in store.entries(folder) if _is_segment(entry)]


def _is_segment(entry: Entry) -> bool:
    return "/seg/" in entry.name and entry.name.endswith(".arrow")


def _read(store: Store, name: str, plan_id: str | None) -> pa.Table | None:
    try:
        table = decode_segment(store.read(name))
    except ValueError:
        return None
    if plan_id is not None and pc.unique(table.column("plan_id")).to_pylist() != [plan_id]:
        return None
    return table


def _add_up(ledger: pa.Table) -> Spent:
    def total(name: str) -> float:
        return pc.sum(ledger.column(name)).as_py() or 0

    carried = pc.equal(ledger.column("planned_units"), pa.scalar(0))
    paid = ledger.filter(pc.and_not(pc.is_null(ledger.column("error")), carried))
    units = (
        pc.sum(pc.coalesce(paid.column("search_units"), paid.column("planned_units"))).as_py() or 0
    )
    planned = pc.sum(paid.column("planned_units")).as_py() or 0
    return Spent(paid.num_rows, int(units), int(planned), float(total("cost_usd")))


def _explode(ledger: pa.Table) -> pa.Table:
    """One row per passage, scored replies first, each kind in ledger order."""
    refused = pc.is_valid(ledger.column("error"))
    parts = []
    for is_refused in (False, True):
        rows = ledger.filter(refused if is_refused else pc.invert(refused)).combine_chunks()
        keys = rows.column("passage_keys").combine_chunks()
        parent = pc.list_parent_indices(keys)
        flat = pc.list_flatten(keys)
        scores = (
            pa.nulls(len(flat), pa.float64())
            if is_refused
            else pc.list_flatten(rows.column("scores").combine_chunks())
        )
        facts = [
            rows.column(name).take(parent)
            for name in ("error", "model", "provider", "received_at", "parts")
        ]
        carried = pc.equal(rows.column("planned_units").take(parent), pa.scalar(0))
        columns = [rows.column("query_key").take(parent), flat, scores, *facts, carried]
        parts.append(pa.table(columns, schema=PAIRS))
    return pa.concat_tables(parts).combine_chunks()


def _first_of_each(pairs: pa.Table) -> pa.Table:
    if pairs.num_rows == 0:
        return pairs
    words = np.concatenate([_words(pairs, "query_key"), _words(pairs, "passage_key")], axis=1)
    packed = np.ascontiguousarray(words).view([("", np.uint64)] * 4).ravel()
    _, first = np.unique(packed, return_index=True)
    if len(first) == pairs.num_rows:
        return pairs
    return pairs.take(np.sort(first))


def _words(pairs: pa.Table, name: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    array = pairs.column(name).combine_chunks()
    # The stubs do not know that an Arrow buffer is a bytes-like object.
    data = np.frombuffer(array.buffers()[1], dtype=np.uint64)  # type: ignore[call-overload]
    words: np.ndarray[tuple[int, int], np.dtype[np.uint64]] = data.reshape(-1, 2)
    return words[array.offset : array.offset + len(array)]
