"""The schedule: per query, what is reused and which requests send the rest, for the fewest units.

Reuse follows the price (design section 4): under ``cheapest`` a query's earlier scores are used if
that lowers its units, else all of it is sent again for the same money: its ranking is of one day.
Under ``strict`` earlier scores are always used, under ``off`` never.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.plan.cluster import stream
from rerank_jobs.plan.packing import MAX_PASSAGES, pack_query, search_units
from rerank_jobs.plan.work import ShardWriters

__all__ = ["SCHEDULE", "ShardPrice", "price_queries", "write_schedule"]

SCHEDULE = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the columns to object
        ("request", pa.int32()),
        ("units", pa.int32()),
        ("score", pa.float64()),
        ("model", pa.string()),
        ("provider", pa.string()),
    ]
)
"""``request`` is -1 where nothing is sent; ``units`` are those of the whole request."""

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ShardPrice:
    """What one shard will send: distinct passages, requests and search units.

    ``bound_units`` is the fewest units that any packing could cost, ``naive_units`` what sending
    every passage would cost without reuse; ``widest_units`` those of the dearest request.
    """

    passages: int = 0
    reused: int = 0
    requests: int = 0
    units: int = 0
    bound_units: int = 0
    naive_units: int = 0
    widest_units: int = 0


def write_schedule(
    con: duckdb.DuckDBPyConnection, library: str | None, mode: str, out: ShardWriters
) -> list[ShardPrice]:
    """Decide and write the schedule of all shards from the table ``sends``; return their prices.

    ``library`` is a query of (query_key, passage_key, score, model, provider) with one row a pair.
    """
    prices = [ShardPrice() for _ in range(out.shards)]
    reader = con.cursor()
    for batch in _whole_queries(stream(reader, _sends_sql(library, mode))):
        shards = batch.column("shard").to_numpy()
        starts = np.flatnonzero(np.diff(shards, prepend=shards[:1] - 1))
        for start, stop in zip(starts, [*starts[1:], len(shards)], strict=True):
            shard = int(shards[start])
            part = batch.slice(int(start), int(stop - start))
            prices[shard] = _schedule_part(part, mode, shard, prices[shard], out)
    reader.close()
    return prices


def _sends_sql(library: str | None, mode: str) -> str:
    repeat = (
        "row_number() OVER (PARTITION BY s.query_key, s.passage_key ORDER BY s.ord) > 1 AS repeat"
    )
    known = "NULL::DOUBLE AS score, NULL::VARCHAR AS model, NULL::VARCHAR AS provider"
    join = ""
    if library is not None and mode != "off":
        known = "l.score, l.model, l.provider"
        join = (
            f"LEFT JOIN ({library}) AS l"
            " ON s.query_key = l.query_key AND s.passage_key = l.passage_key"
        )
    return f"""SELECT s.shard, s.query_key, s.chunks, s.error IS NOT NULL AS refused,
        {repeat}, {known} FROM sends AS s {join} ORDER BY s.ord"""


def _whole_queries(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield tables that end where a query ends."""
    held: list[pa.Table] = []
    for batch in batches:
        table = pa.Table.from_batches([batch])
        last_start = int(_query_starts(table)[-1]) if table.num_rows else 0
        if last_start == 0 and held and _same_query(held[-1], table):
            held.append(table)
            continue
        if held and table.num_rows and not _same_query(held[-1], table):
            yield pa.concat_tables(held).combine_chunks()
            held = []
        if last_start:
            yield pa.concat_tables([*held, table.slice(0, last_start)]).combine_chunks()
            held = []
        if table.num_rows:
            held.append(table.slice(last_start))
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _same_query(before: pa.Table, after: pa.Table) -> bool:
    return bool(before.column("query_key")[-1] == after.column("query_key")[0])


def _query_starts(table: pa.Table) -> IntArray:
    keys = table.column("query_key").cast(pa.binary(16)).combine_chunks()
    # The stubs do not know that an Arrow buffer is a bytes-like object.
    data = np.frombuffer(keys.buffers()[1], dtype=np.uint64)  # type: ignore[call-overload]
    words = data.reshape(-1, 2)[keys.offset : keys.offset + len(keys)]
    changed = np.any(words[1:] != words[:-1], axis=1)
    return np.concatenate([[0], np.flatnonzero(changed) + 1]).astype(np.int64)


def _schedule_part(
    table: pa.Table, mode: str, shard: int, price: ShardPrice, out: ShardWriters
) -> ShardPrice:
    def flags(name: str) -> BoolArray:
        found: BoolArray = table.column(name).to_numpy().astype(bool)
        return found

    chunks = table.column("chunks").to_numpy().astype(np.int64)
    counted = ~flags("repeat") & ~flags("refused")
    known = table.column("score").is_valid().to_numpy()
    starts = _query_starts(table)
    use, send, added = price_queries(chunks, counted, known & counted, starts, mode)
    numbers, units = _number_requests(chunks, send, starts, price.requests)
    reused = np.repeat(use, np.diff([*starts, len(chunks)])) & known
    columns: list[pa.Array[Any] | pa.ChunkedArray[Any]] = [pa.array(numbers), pa.array(units)]
    names = ("score", "model", "provider")
    dropped = pa.array(~reused)
    columns += [_blank(table.column(name), dropped) for name in names]
    out.write(shard, pa.table(columns, names=SCHEDULE.names))
    return _add(price, added, numbers, units)


def _blank(column: pa.ChunkedArray[Any], dropped: pa.Array[Any]) -> pa.ChunkedArray[Any]:
    blanked: pa.ChunkedArray[Any] = pc.if_else(dropped, pa.scalar(None, column.type), column)
    return blanked


def price_queries(
    chunks: IntArray, counted: BoolArray, known: BoolArray, starts: IntArray, mode: str
) -> tuple[BoolArray, BoolArray, ShardPrice]:
    """Decide per query whether known scores are used.

    Return (use per query, send per passage, sums).
    ``counted`` marks passages that would be sent without reuse, ``starts`` each query's first one.
    """
    all_units = search_units(np.add.reduceat(np.where(counted, chunks, 0), starts))
    missing_units = search_units(np.add.reduceat(np.where(counted & ~known, chunks, 0), starts))
    if mode == "strict":
        use = np.ones(len(starts), dtype=bool)
    elif mode == "cheapest":
        use = missing_units < all_units
    else:
        use = np.zeros(len(starts), dtype=bool)
    reused = np.repeat(use, np.diff([*starts, len(chunks)])) & known
    send = counted & ~reused
    return (
        use,
        send,
        ShardPrice(
            passages=int(counted.sum()),
            reused=int(reused.sum()),
            bound_units=int(np.where(use, missing_units, all_units).sum()),
            naive_units=int(all_units.sum()),
        ),
    )


def _number_requests(
    chunks: IntArray, send: BoolArray, starts: IntArray, first: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Assign requests to each query from number ``first`` on; return (request, units) a passage."""
    numbers = np.full(len(chunks), -1, dtype=np.int32)
    units = np.zeros(len(chunks), dtype=np.int32)
    positions = np.flatnonzero(send)
    if len(positions) == 0:
        return numbers, units
    query_of = np.searchsorted(starts, positions, side="right")
    edges = np.flatnonzero(np.diff(query_of, prepend=-1))
    number = first
    for start, stop in zip(edges, [*edges[1:], len(positions)], strict=True):
        mine = positions[start:stop]
        weights = chunks[mine]
        total = int(weights.sum())
        if total <= 100 and len(mine) <= MAX_PASSAGES:
            numbers[mine], units[mine] = number, 1
            number += 1
            continue
        for members in pack_query(weights):
            numbers[mine[members]] = number
            units[mine[members]] = search_units(int(weights[members].sum()))
            number += 1
    return numbers, units


def _add(
    price: ShardPrice,
    added: ShardPrice,
    numbers: npt.NDArray[np.int32],
    units: npt.NDArray[np.int32],
) -> ShardPrice:
    _, first = np.unique(numbers[numbers >= 0], return_index=True)
    each = units[numbers >= 0][first]
    return replace(
        price,
        passages=price.passages + added.passages,
        reused=price.reused + added.reused,
        bound_units=price.bound_units + added.bound_units,
        naive_units=price.naive_units + added.naive_units,
        requests=price.requests + len(each),
        units=price.units + int(each.sum()),
        widest_units=max([price.widest_units, *each.tolist()]),
    )
