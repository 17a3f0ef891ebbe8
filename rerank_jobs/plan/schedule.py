"""The schedule: per query, what is reused and which requests send the rest, for the fewest units.

Reuse follows the price (design section 4): under ``cheapest`` a query's earlier scores are used if
that lowers its units, else all of it is sent again for the same money: its ranking is of one day.
Under ``strict`` earlier scores are always used, under ``off`` never.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.plan.cluster import stream
from rerank_jobs.plan.packing import MAX_PASSAGES, chunks_query_once, pack_query, search_units
from rerank_jobs.plan.price import ShardPrice
from rerank_jobs.plan.windows import passage_limit
from rerank_jobs.plan.work import ShardWriters

__all__ = ["SCHEDULE", "Queries", "Rules", "price_queries", "write_schedule"]

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

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rules:
    """What one request may hold, and what is paid for.

    ``context_tokens``: the query and all passages of a request fit it together (``scope:
    request``). ``whole_queries``: a query is never split (listwise models). ``per_token``: tokens
    are paid for, so that any score that is reused saves money.
    """

    max_passages: int = MAX_PASSAGES
    context_tokens: int | None = None
    whole_queries: bool = False
    per_token: bool = False


@dataclass(frozen=True, slots=True)
class Queries:
    """Passages of whole queries, one after the other; ``starts`` is each query's first one.

    ``tokens`` are those of passage and query. ``counted`` passages are sent unless they are reused:
    neither repeated nor refused.
    """

    chunks: IntArray
    tokens: IntArray
    query_tokens: IntArray
    counted: BoolArray
    starts: IntArray

    def add_up(self, values: IntArray, chosen: BoolArray) -> IntArray:
        """Return the sum of the chosen passages' values per query."""
        sums: IntArray = np.add.reduceat(np.where(chosen, values, 0), self.starts)
        return sums

    def spread(self, per_query: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Repeat a value per query for each of its passages."""
        return np.repeat(per_query, np.diff([*self.starts, len(self.chunks)]))

    @property
    def sizes(self) -> IntArray:
        """Tokens of each passage alone."""
        return self.tokens - self.query_tokens

    def find_room(self, context_tokens: int) -> IntArray:
        """Return per query how many tokens the passages of one of its requests may have."""
        return passage_limit(context_tokens, self.query_tokens[self.starts])

    def bound(self, chosen: BoolArray, rules: Rules) -> IntArray:
        """Return per query the fewest units that sending the chosen passages can cost."""
        ones = np.ones(len(self.chunks), dtype=np.int64)
        count = self.add_up(ones, chosen)
        units = np.maximum(
            search_units(self.add_up(self.chunks, chosen)), -(-count // rules.max_passages)
        )
        if rules.context_tokens is None:
            return units
        total = self.add_up(self.sizes, chosen)
        fewest: IntArray = np.maximum(units, -(-total // self.find_room(rules.context_tokens)))
        return fewest


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
    for batch in _whole_queries(stream(reader, _sends_sql(library, mode))):
        shards = batch.column("shard").to_numpy()
        starts = np.flatnonzero(np.diff(shards, prepend=shards[:1] - 1))
        for start, stop in zip(starts, [*starts[1:], len(shards)], strict=True):
            shard = int(shards[start])
            part = batch.slice(int(start), int(stop - start))
            price = _schedule_part(part, mode, shard, prices[shard].requests, out, rules)
            prices[shard] = prices[shard].plus(price)
    reader.close()
    return prices


def _sends_sql(library: str | None, mode: str) -> str:
    repeat = (
        "row_number() OVER (PARTITION BY s.query_key, s.passage_key ORDER BY s.ord) > 1 AS repeat"
    )
    known = (
        "NULL::DOUBLE AS score, NULL::VARCHAR AS model, NULL::VARCHAR AS provider,"
        " NULL::INTEGER AS parts"
    )
    join = ""
    if library is not None and mode != "off":
        known = "l.score, l.model, l.provider, l.parts"
        join = (
            f"LEFT JOIN ({library}) AS l"
            " ON s.query_key = l.query_key AND s.passage_key = l.passage_key"
        )
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
    numbers, units = _number_requests(queries, send, first, rules)
    dropped = pa.array(~(queries.spread(use) & known))
    written: list[pa.Array[Any] | pa.ChunkedArray[Any]] = [pa.array(numbers), pa.array(units)]
    names = ("score", "model", "provider", "parts")
    written += [_blank(table.column(name), dropped) for name in names]
    out.write(shard, pa.table(written, names=SCHEDULE.names))
    return price.plus(_price_requests(queries, numbers, first))


def _blank(column: pa.ChunkedArray[Any], dropped: pa.Array[Any]) -> pa.ChunkedArray[Any]:
    blanked: pa.ChunkedArray[Any] = pc.if_else(dropped, pa.scalar(None, column.type), column)
    return blanked


def price_queries(
    queries: Queries, known: BoolArray, mode: str, rules: Rules
) -> tuple[BoolArray, BoolArray, ShardPrice]:
    """Decide per query whether known scores are used.

    Return (use per query, send per passage, sums without those of requests).
    """
    counted = queries.counted
    missing = counted & ~known
    all_units, missing_units = queries.bound(counted, rules), queries.bound(missing, rules)
    if mode == "strict":
        use = np.ones(len(queries.starts), dtype=bool)
    elif mode == "cheapest":
        use = missing_units < all_units
        if rules.per_token:
            use |= queries.add_up(queries.tokens, known) > 0
    else:
        use = np.zeros(len(queries.starts), dtype=bool)
    reused = queries.spread(use) & known
    send = counted & ~reused
    price = ShardPrice(
        passages=int(counted.sum()),
        reused=int(reused.sum()),
        bound_units=int(np.where(use, missing_units, all_units).sum()),
        distinct_units=int(search_units(queries.add_up(queries.chunks, counted)).sum()),
        distinct_tokens=int(queries.tokens[counted].sum()),
        missing_units=int(search_units(queries.add_up(queries.chunks, send)).sum()),
    )
    return use, send, price


def _number_requests(
    queries: Queries, send: BoolArray, first: int, rules: Rules
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Assign requests to each query from number ``first`` on; return (request, units) a passage."""
    numbers = np.full(len(send), -1, dtype=np.int32)
    units = np.zeros(len(send), dtype=np.int32)
    positions = np.flatnonzero(send)
    if len(positions) == 0:
        return numbers, units
    query_of = np.searchsorted(queries.starts, positions, side="right") - 1
    edges = np.flatnonzero(np.diff(query_of, prepend=-1))
    context = rules.context_tokens
    sizes = None if context is None else queries.sizes
    rooms = None if context is None else queries.find_room(context)
    number = first
    for start, stop in zip(edges, [*edges[1:], len(positions)], strict=True):
        mine = positions[start:stop]
        weights = queries.chunks[mine]
        requests = pack_query(
            weights,
            max_passages=rules.max_passages,
            tokens=None if sizes is None else sizes[mine],
            room=0 if rooms is None else int(rooms[query_of[start]]),
            whole=rules.whole_queries,
        )
        for members in requests:
            numbers[mine[members]] = number
            units[mine[members]] = search_units(int(weights[members].sum()))
            number += 1
    return numbers, units


def _price_requests(queries: Queries, numbers: npt.NDArray[np.int32], first: int) -> ShardPrice:
    """Add up requests numbered from ``first`` on."""
    sent = numbers >= 0
    if not sent.any():
        return ShardPrice()
    which = numbers[sent] - first

    def add_up(values: IntArray) -> IntArray:
        return np.bincount(which, weights=values).astype(np.int64)

    tokens = queries.tokens[sent]
    units, request_tokens = search_units(add_up(queries.chunks[sent])), add_up(tokens)
    return ShardPrice(
        requests=len(units),
        units=int(units.sum()),
        tokens=int(tokens.sum()),
        widest_units=int(units.max()),
        widest_tokens=int(request_tokens.max()),
        units_query_once=int(search_units(add_up(chunks_query_once(tokens))).sum()),
    )
