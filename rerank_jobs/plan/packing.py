"""Price a query's passages in billing chunks and pack them into requests for the fewest units.

A search unit is one query with up to 100 chunks; a request costs its chunks / 100, rounded up. So
the units of a query are at least those of all its chunks together, and one request that holds all
of them reaches that bound. Smaller requests lose less in a crash and run side by side: a request is
one unit wherever that costs nothing.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CHUNKS_PER_UNIT",
    "CHUNK_TOKENS",
    "MAX_PASSAGES",
    "billing_chunks",
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
    whole = -(-(query + passage) // CHUNK_TOKENS)
    room = CHUNK_TOKENS - query
    carried = np.where(room > 0, -(-passage // np.maximum(room, 1)), 0)
    chunks: IntArray = np.maximum(np.maximum(whole, carried), 1)
    return chunks


@overload
def search_units(chunks: int) -> int: ...
@overload
def search_units(chunks: npt.NDArray[Any]) -> IntArray: ...
def search_units(chunks: int | npt.NDArray[Any]) -> int | IntArray:
    """Return the search units of a request whose passages are ``chunks`` chunks together."""
    return -(-chunks // CHUNKS_PER_UNIT)


def lower_bound_units(chunks: npt.NDArray[Any]) -> int:
    """Return the fewest units that any packing of one query's passages can cost."""
    return search_units(int(chunks.sum()))


def pack_query(chunks: npt.NDArray[Any], *, max_passages: int = MAX_PASSAGES) -> list[IntArray]:
    """Cut one query's passages into requests: arrays of ascending indexes into ``chunks``.

    Each passage stands in exactly one request. The units reach ``lower_bound_units`` whenever the
    passages fit one request by count, and are close to it otherwise (packing with a limit on the
    count is NP-hard). The result depends on ``chunks`` and ``max_passages`` alone.
    """
    count = len(chunks)
    if count == 0:
        return []
    total = int(chunks.sum())
    if total <= CHUNKS_PER_UNIT and count <= max_passages:
        return [np.arange(count)]
    if total == count:
        size = min(CHUNKS_PER_UNIT, max_passages)
        return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
    weights: list[int] = chunks.tolist()
    bound = search_units(total)
    bins = _fit(weights, range(count), max_passages)
    if _units(bins) > bound:
        heavy_first = sorted(range(count), key=lambda index: -weights[index])
        bins = min(bins, _fit(weights, heavy_first, max_passages), key=_units)
        bins = _merge(bins, max_passages)
    return [np.array(sorted(bin_.members)) for bin_ in sorted(bins, key=lambda b: min(b.members))]


@dataclass(slots=True)
class _Bin:
    members: list[int]
    units: int
    slack: int


def _units(bins: Sequence[_Bin]) -> int:
    return sum(bin_.units for bin_ in bins)


def _fit(weights: list[int], order: Sequence[int], max_passages: int) -> list[_Bin]:
    """First fit: into the earliest request with room, else into a new one."""
    bins: list[_Bin] = []
    unfilled: list[_Bin] = []
    lightest = min(weights)
    for index in order:
        weight = weights[index]
        bin_ = next((bin_ for bin_ in unfilled if bin_.slack >= weight), None)
        if bin_ is None:
            units = search_units(weight)
            bin_ = _Bin([index], units, units * CHUNKS_PER_UNIT - weight)
            bins.append(bin_)
            unfilled.append(bin_)
            if len(unfilled) > _OPEN_BINS:
                del unfilled[0]
        else:
            bin_.members.append(index)
            bin_.slack -= weight
        if bin_.slack < lightest or len(bin_.members) >= max_passages:
            unfilled.remove(bin_)
    return bins


def _merge(bins: list[_Bin], max_passages: int) -> list[_Bin]:
    """Merge requests as long as that saves units, the emptiest first."""
    waiting = sorted(bins, key=_emptiest_first)
    done: list[_Bin] = []
    while waiting:
        group = _gather(waiting, max_passages)
        if group is None:
            done.append(waiting.pop(0))
            continue
        chosen = {id(bin_) for bin_ in group}
        waiting = [bin_ for bin_ in waiting if id(bin_) not in chosen]
        members = [index for bin_ in group for index in bin_.members]
        saved, slack = divmod(sum(bin_.slack for bin_ in group), CHUNKS_PER_UNIT)
        insort(waiting, _Bin(members, _units(group) - saved, slack), key=_emptiest_first)
    return done


def _emptiest_first(bin_: _Bin) -> tuple[int, int]:
    return -bin_.slack, bin_.members[0]


def _gather(waiting: list[_Bin], max_passages: int) -> list[_Bin] | None:
    """Return the fewest requests, the first one among them, that cost a unit less together."""
    group: list[_Bin] = []
    slack = count = 0
    for bin_ in waiting:
        if count + len(bin_.members) > max_passages:
            continue
        group.append(bin_)
        slack += bin_.slack
        count += len(bin_.members)
        if slack >= CHUNKS_PER_UNIT:
            return group
    return None
