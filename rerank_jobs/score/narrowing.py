"""Find the passage that an endpoint refuses: split its request until it stands alone. Pure.

A refused request costs nothing, so only the innocent parts on the way are paid one by one: for a
request of 100 passages at most seven search units in place of one. A passage that the error names
is tried first, and if it is the guilty one the rest goes in one request again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerank_jobs.model import CHUNKS_PER_UNIT, Passage, Request

__all__ = ["MAX_PARTS", "Attempt", "release_rest", "split"]

MAX_PARTS = 16
"""As how many pieces a passage that is too long may be sent before it fails."""


@dataclass(slots=True, eq=False)
class Attempt:
    """A request on its way: how often it was sent, and when last (loop time).

    ``rest``: what else was in the refused request; it waits for the verdict on this one.
    ``trusting``: whether an index that the endpoint names is believed. ``parts``: texts that are
    sent in place of the only passage, which is too long. ``credit``: what its last send holds of
    the rate limit.
    """

    request: Request
    sends: int = 0
    sent_at: float = 0.0
    rest: Request | None = None
    trusting: bool = True
    parts: tuple[str, ...] = ()
    credit: str = ""

    @property
    def texts(self) -> Sequence[str]:
        """What is sent."""
        return self.parts or [passage.text for passage in self.request.passages]

    @property
    def search_units(self) -> int:
        """The units that are planned for it; each piece of a passage may fill one chunk more."""
        if not self.parts:
            return self.request.search_units
        return _count_units(self.request.passages, more=len(self.parts))


def split(attempt: Attempt, index: int | None) -> list[Attempt]:
    """Return what to send in place of a refused request of two passages or more.

    ``index`` is the passage that the endpoint names. Every passage stands in exactly one of the
    attempts, or in the ``rest`` of one.
    """
    request = attempt.request
    count = len(request.passages)
    if attempt.trusting and index is not None and 0 <= index < count:
        others = [number for number in range(count) if number != index]
        rest = _cut(request, others)
        return [Attempt(_cut(request, [index]), rest=rest)]
    return _halve(request, trusting=attempt.trusting)


def release_rest(attempt: Attempt, *, guilty: bool) -> list[Attempt]:
    """Return what to send of the rest that waited for the verdict on ``attempt``.

    Guilty as named: the rest in one request. Innocent: the endpoint named the wrong one, its words
    are not believed again, and the rest, which holds the guilty one, is split.
    """
    rest = attempt.rest
    if rest is None:
        return []
    if guilty or len(rest.passages) == 1:
        return [Attempt(rest, trusting=guilty)]
    return _halve(rest, trusting=False)


def _halve(request: Request, *, trusting: bool) -> list[Attempt]:
    count = len(request.passages)
    middle = count // 2
    halves = (range(middle), range(middle, count))
    return [Attempt(_cut(request, half), trusting=trusting) for half in halves]


def _cut(request: Request, positions: Sequence[int]) -> Request:
    passages = tuple(request.passages[position] for position in positions)
    return replace(request, passages=passages, search_units=_count_units(passages))


def _count_units(passages: Sequence[Passage], more: int = 0) -> int:
    return -(-(sum(passage.chunks for passage in passages) + more) // CHUNKS_PER_UNIT)
