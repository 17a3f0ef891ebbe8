"""The schedule: per query, what is reused and which requests send the rest, for the fewest units.

Reuse follows the price (design section 4): under ``cheapest`` a query's earlier scores are used if
that lowers its units, else all of it is sent again for the same money: its ranking is of one day.
Under ``strict`` earlier scores are always used, under ``off`` never.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.plan.cluster import stream
from rerank_jobs.plan.price import ShardPrice
from rerank_jobs.plan.queries import (
    BoolArray,
    IntArray,
    Queries,
    Rules,
    number_requests,
    price_modes,
    price_queries,
    price_requests,
)
from rerank_jobs.plan.work import ShardWriters

__all__ = ["SCHEDULE", "write_schedule"]

SCHEDULE = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the columns to object
        ("request", pa.int32()),
        ("units", pa.int32()),
        ("score", pa.float64()),
        ("model", pa.string()),
        ("provider", pa.string()),
        ("parts", pa.int32()),
    ]
)
"""``request`` is -1 where nothing is sent; ``units`` are those of the whole request."""


def write_schedule(
    con: duckdb.DuckDBPyConnection,
    library: str | None,
    mode: str,
    out: ShardWriters,
    rules: Rules,
) -> list[ShardPrice]:
    """Decide and write the schedule of all shards from the table ``sends``; return their prices.

    ``library`` is a query of (query_key, passage_key, score, model, provider, parts) with one row a
    pair.

    Raises:
        JobError: a query that must not be split does not fit one request.

    """
    prices = [ShardPrice() for _ in range(out.shards)]
    reader = con.cursor()
    reuse = library is not None and mode != "off"
    if reuse:  # by itself: in one query with the rest the memory of both would add up
        con.execute(f"CREATE TABLE known AS {library}")
    for batch in _whole_queries(stream(reader, _sends_sql(reuse=reuse))):
        shards = batch.column("shard").to_numpy()
        starts = np.flatnonzero(np.diff(shards, prepend=shards[:1] - 1))
        for start, stop in zip(starts, [*starts[1:], len(shards)], strict=True):
            shard = int(shards[start])
            part = batch.slice(int(start), int(stop - start))
            price = _schedule_part(part, mode, shard, prices[shard].requests, out, rules)
            prices[shard] = prices[shard].plus(price)
    reader.close()
    return prices


def _sends_sql(*, reuse: bool) -> str:
    repeat = (
        "row_number() OVER (PARTITION BY s.query_key, s.passage_key ORDER BY s.ord) > 1 AS repeat"
    )
    known = (
        "NULL::DOUBLE AS score, NULL::VARCHAR AS model, NULL::VARCHAR AS provider,"
        " NULL::INTEGER AS parts"
    )
    join = ""
    if reuse:
        known = "l.score, l.model, l.provider, l.parts"
        join = "LEFT JOIN known AS l ON s.query_key = l.query_key AND s.passage_key = l.passage_key"
    return f"""SELECT s.shard, s.query_key, s.chunks, s.tokens, s.query_tokens,
        s.error IS NOT NULL AS refused, {repeat}, {known}
        FROM sends AS s {join} WHERE s.sent ORDER BY s.ord"""


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
    table: pa.Table, mode: str, shard: int, first: int, out: ShardWriters, rules: Rules
) -> ShardPrice:
    """Write the schedule of some queries, their requests numbered from ``first`` on."""
    columns = {name: table.column(name).to_numpy() for name in ("repeat", "refused")}
    chunks, tokens, query_tokens = (
        table.column(name).to_numpy().astype(np.int64)
        for name in ("chunks", "tokens", "query_tokens")
    )
    counted: BoolArray = ~columns["repeat"].astype(bool) & ~columns["refused"].astype(bool)
    queries = Queries(chunks, tokens, query_tokens, counted, _query_starts(table))
    known = table.column("score").is_valid().to_numpy()
    use, send, price = price_queries(queries, known & counted, mode, rules)
    numbers, units = number_requests(queries, send, first, rules)
    dropped = pa.array(~(queries.spread(use) & known))
    written: list[pa.Array[Any] | pa.ChunkedArray[Any]] = [pa.array(numbers), pa.array(units)]
    names = ("score", "model", "provider", "parts")
    written += [_blank(table.column(name), dropped) for name in names]
    out.write(shard, pa.table(written, names=SCHEDULE.names))
    price = price.plus(price_requests(queries, numbers, first))
    return price.plus(price_modes(queries, known & counted, send, numbers, rules))


def _blank(column: pa.ChunkedArray[Any], dropped: pa.Array[Any]) -> pa.ChunkedArray[Any]:
    blanked: pa.ChunkedArray[Any] = pc.if_else(dropped, pa.scalar(None, column.type), column)
    return blanked
