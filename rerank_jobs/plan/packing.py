"""Price a query's passages in billing chunks and pack them into requests for the fewest units.

A search unit is one query with up to 100 chunks; a request costs its chunks / 100, rounded up. So
the units of a query are at least those of all its chunks together, and one request that holds all
of them reaches that bound. Smaller requests lose less in a crash and run side by side: a request is
one unit wherever that costs nothing.

The bound is reached by any query, however large, if a request may hold 100 passages. Of any 100
numbers some have a sum that 100 divides: the sums of the first 0, 1, … 100 of them leave only 100
remainders, so two are alike, and what lies between them is such a set. Those passages make a
request without waste; what remains in the end is fewer than 100 passages, one request more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from rerank_jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CHUNKS_PER_UNIT",
    "CHUNK_TOKENS",
    "MAX_PASSAGES",
    "billing_chunks",
    "chunks_query_once",
    "lower_bound_units",
    "pack_query",
    "search_units",
]

IntArray = npt.NDArray[np.int64]

CHUNKS_PER_UNIT = 100
"""Chunks in one search unit (Cohere's pricing: "a query with up to 100 documents")."""

CHUNK_TOKENS = 500
"""Longest passage, in tokens with the query, that counts as one chunk."""

MAX_PASSAGES = 1000
"""Most passages that Cohere advises for one request."""

_OPEN_BINS = 64
"""How many unfilled requests are tried for a passage: bounds the work of a huge query."""


def billing_chunks(
    query_tokens: int | npt.NDArray[Any], passage_tokens: npt.NDArray[Any]
) -> IntArray:
    """Return the chunks (>= 1) that each passage is billed as, by the dearer official reading.

    ``query_tokens`` (q) is one number or one per passage (d). The official sentence, "documents
    longer than 500 tokens including the query are split", can mean ceil((q + d) / 500) or, when
    each part carries the query, ceil(d / (500 - q)); the second has no meaning for q >= 500.
    """
    query = np.asarray(query_tokens, dtype=np.int64)
    passage = np.asarray(passage_tokens, dtype=np.int64)
    room = CHUNK_TOKENS - query
    carried = np.where(room > 0, -(-passage // np.maximum(room, 1)), 0)
    chunks: IntArray = np.maximum(chunks_query_once(query + passage), carried)
    return chunks


def chunks_query_once(tokens: npt.NDArray[Any]) -> IntArray:
    """Return the chunks (>= 1) by the cheaper reading; ``tokens`` are those of query and passage.

    That is ceil((q + d) / 500): the query is a part of the passage's length once.
    """
    chunks: IntArray = np.maximum(-(-tokens.astype(np.int64) // CHUNK_TOKENS), 1)
    return chunks


@overload
def search_units(chunks: int) -> int: ...
@overload
def search_units(chunks: npt.NDArray[Any]) -> IntArray: ...
def search_units(chunks: int | npt.NDArray[Any]) -> int | IntArray:
    """Return the search units of a request whose passages are ``chunks`` chunks together."""
    return -(-chunks // CHUNKS_PER_UNIT)


def lower_bound_units(
    chunks: npt.NDArray[Any],
    *,
    max_passages: int = MAX_PASSAGES,
    tokens: npt.NDArray[Any] | None = None,
    room: int = 0,
) -> int:
    """Return the fewest units that any packing of one query's passages can cost.

    Each request costs a unit at least, so the fewest requests are a bound too.
    """
    bounds = [search_units(int(chunks.sum())), -(-len(chunks) // max_passages)]
    if tokens is not None:
        bounds.append(-(-int(tokens.sum()) // room))
    return max(bounds)


def pack_query(
    chunks: npt.NDArray[Any],
    *,
    max_passages: int = MAX_PASSAGES,
    tokens: npt.NDArray[Any] | None = None,
    room: int = 0,
    whole: bool = False,
) -> list[IntArray]:
    """Cut one query's passages into requests: arrays of ascending indexes into ``chunks``.

    Each passage stands in exactly one request. The units equal ``lower_bound_units`` whenever
    ``max_passages`` is 100 or more and ``tokens`` are not given; otherwise they are close to it
    (packing with a limit on count or size is NP-hard). With ``tokens``, those of a request add up
    to ``room`` at most, unless one passage alone is larger. Equal arguments give equal requests.

    Raises:
        JobError: a ``whole`` query must be one request, and does not fit.

    """
    count = len(chunks)
    if count == 0:
        return []
    total = int(chunks.sum())
    sizes = [0] * count if tokens is None else tokens.tolist()
    fits = count <= max_passages and sum(sizes) <= room
    if fits and (whole or total <= CHUNKS_PER_UNIT):
        return [np.arange(count)]
    if whole:
        raise JobError(
            "a listwise model needs all candidates of a query in one request: one has"
            f" {count:,} passages, at most {max_passages:,} fit"
            + (f", of {sum(sizes):,} tokens, at most {room:,}" if room else "")
            + ": set candidates.top_k"
        )
    if total == count and tokens is None:
        size = min(CHUNKS_PER_UNIT, max_passages)
        return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
    limits = _Limits(chunks.tolist(), sizes, room, max_passages)
    bound = lower_bound_units(chunks, max_passages=max_passages, tokens=tokens, room=room)
    heavy_first = sorted(range(count), key=lambda index: (-sizes[index], -limits.weights[index]))
    best: list[_Bin] = []
    for order in (range(count), heavy_first):
        bins = _fit(limits, order)
        if _units(bins) > bound:
            saved = _fit_by_size(limits, order) if room else _save_units(limits, bins, bound)
            bins = min(bins, saved, key=_units)
        if not best or _units(bins) < _units(best):
            best = bins
        if _units(best) == bound:
            break
    return [np.array(sorted(bin_.members)) for bin_ in sorted(best, key=lambda b: min(b.members))]


@dataclass(frozen=True, slots=True)
class _Limits:
    """Chunks and tokens of each passage, and what a request holds."""

    weights: list[int]
    sizes: list[int]
    room: int
    max_passages: int


@dataclass(slots=True)
class _Bin:
    members: list[int]
    units: int
    slack: int
    room: int = 0


def _units(bins: Sequence[_Bin]) -> int:
    return sum(bin_.units for bin_ in bins)


def _fit_by_size(limits: _Limits, order: Sequence[int]) -> list[_Bin]:
    """First fit by tokens alone: requests of several units where that saves one."""
    weightless = replace(limits, weights=[0] * len(limits.weights))
    bins = _fit(weightless, order)
    return [_close(bin_.members, sum(limits.weights[i] for i in bin_.members)) for bin_ in bins]


def _fit(limits: _Limits, order: Sequence[int]) -> list[_Bin]:
    """First fit: into the earliest request with room, else into a new one."""
    bins: list[_Bin] = []
    unfilled: list[_Bin] = []
    lightest = min(limits.weights)
    for index in order:
        weight, size = limits.weights[index], limits.sizes[index]
        bin_ = next((bin_ for bin_ in unfilled if bin_.slack >= weight and bin_.room >= size), None)
        if bin_ is None:
            units = search_units(weight)
            slack = units * CHUNKS_PER_UNIT - weight
            bin_ = _Bin([index], units, slack, limits.room - size)
            bins.append(bin_)
            unfilled.append(bin_)
            if len(unfilled) > _OPEN_BINS:
                del unfilled[0]
        else:
            bin_.members.append(index)
            bin_.slack -= weight
            bin_.room -= size
        if bin_.slack < lightest or len(bin_.members) >= limits.max_passages:
            unfilled.remove(bin_)
    return bins


def _save_units(limits: _Limits, bins: list[_Bin], bound: int) -> list[_Bin]:
    """Pack the emptiest requests anew, no more of them than waste what is above ``bound``."""
    excess = _units(bins) - bound
    by_slack = sorted(bins, key=lambda bin_: (-bin_.slack, bin_.members[0]))
    sums = accumulate(bin_.slack for bin_ in by_slack)
    enough = next((n for n, slack in enumerate(sums, 1) if slack >= excess * CHUNKS_PER_UNIT), None)
    if enough is None or limits.max_passages < CHUNKS_PER_UNIT:
        enough = len(bins)
    loose = [index for bin_ in by_slack[:enough] for index in bin_.members]
    return _close_without_waste(limits, loose) + by_slack[enough:]


def _close_without_waste(limits: _Limits, order: Sequence[int]) -> list[_Bin]:
    """Stack passages up; close a request over the topmost whose chunks 100 divides (see module).

    A stack of ``max_passages`` gives away its part of the least waste.
    """
    bins: list[_Bin] = []
    stack: list[int] = []
    sums = [0]
    depth_of = {0: 0}  # depth of the stack by the remainder of its sum
    for index in order:
        stack.append(index)
        total = sums[-1] + limits.weights[index]
        depth = depth_of.get(total % CHUNKS_PER_UNIT)
        if depth is None:
            depth_of[total % CHUNKS_PER_UNIT] = len(stack)
            sums.append(total)
            if len(stack) < limits.max_passages:
                continue
            last = min(range(1, len(sums)), key=lambda n: (-sums[n] % CHUNKS_PER_UNIT, -n))
            bins.append(_close(stack[:last], sums[last]))
            stack, sums = stack[last:], [value - sums[last] for value in sums[last:]]
            depth_of = {value % CHUNKS_PER_UNIT: n for n, value in enumerate(sums)}
            continue
        bins.append(_close(stack[depth:], total - sums[depth]))
        for value in sums[depth + 1 :]:
            del depth_of[value % CHUNKS_PER_UNIT]
        del stack[depth:], sums[depth + 1 :]
    return [*bins, _close(stack, sums[-1])] if stack else bins


def _close(members: list[int], weight: int) -> _Bin:
    units = search_units(weight)
    return _Bin(members, units, units * CHUNKS_PER_UNIT - weight)
