"""Whole queries at once: what is known of their passages, what is sent, in which requests.

Pure: arrays in, arrays and sums out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank_jobs.plan.packing import MAX_PASSAGES, chunks_query_once, pack_query, search_units
from rerank_jobs.plan.price import ShardPrice
from rerank_jobs.plan.windows import passage_limit

__all__ = [
    "BoolArray",
    "IntArray",
    "Queries",
    "Rules",
    "number_requests",
    "price_modes",
    "price_queries",
    "price_requests",
]

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


def number_requests(
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


def price_requests(queries: Queries, numbers: npt.NDArray[np.int32], first: int) -> ShardPrice:
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


def price_modes(
    queries: Queries,
    known: BoolArray,
    sent: BoolArray,
    numbers: npt.NDArray[np.int32],
    rules: Rules,
) -> ShardPrice:
    """Return what the same queries cost under ``cheapest`` and under ``strict``.

    Exact: a query that another mode sends otherwise is packed again as that mode sends it.
    """
    found: dict[str, int] = {}
    for mode in ("cheapest", "strict"):
        _, send, _ = price_queries(queries, known, mode, rules)
        ones = np.ones(len(send), dtype=np.int64)
        changed = queries.spread(queries.add_up(ones, send != sent) > 0)
        again, _ = number_requests(queries, send & changed, 0, rules)
        price = price_requests(queries, np.where(changed, -1, numbers), int(max(numbers.min(), 0)))
        price = price.plus(price_requests(queries, again, 0))
        found[f"{mode}_passages"] = int(send.sum())
        found[f"{mode}_units"], found[f"{mode}_tokens"] = price.units, price.tokens
    return ShardPrice(**found)
