"""Whether a model is still the one that it was: two readings of the same pairs, compared. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TOLERANCE", "Drift", "Reading", "compare"]

TOLERANCE = 1e-3
"""How far a score may be from an earlier one of the same pair and count as the same.

A model that is served on several kinds of accelerator does not repeat a score to the last bit:
sums in half precision, in another order, differ by some 1e-4 on a scale of 0 to 1.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an endpoint said of a fixed list of pairs: ``scores[i]`` of the i-th, and who scored.

    ``models`` and ``providers`` hold each name once, in order; several where replies differ.
    """

    models: tuple[str, ...]
    providers: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Drift:
    """How a reading differs from an earlier one.

    ``largest``: the largest absolute change of a score, of the pair with index ``pair``.
    ``scores_moved``: how many changed by more than the tolerance. ``ranks_moved``: how many pairs
    stand at another place when sorted by score; told, but no alarm: near ties may swap.
    """

    models: tuple[tuple[str, ...], tuple[str, ...]] | None
    providers: tuple[tuple[str, ...], tuple[str, ...]] | None
    largest: float
    pair: int
    scores_moved: int
    ranks_moved: int

    @property
    def moved(self) -> bool:
        """Say whether model, provider or a score is another one."""
        return bool(self.models or self.providers or self.scores_moved)

    def describe(self) -> str:
        """Return what is different in a few words, or that nothing is."""
        words = []
        for what, change in (("model", self.models), ("provider", self.providers)):
            if change is not None:
                before, after = (", ".join(names) or "none named" for names in change)
                words.append(f"{what} {before} became {after}")
        if self.scores_moved:
            words.append(
                f"{self.scores_moved} scores moved, by up to {self.largest:.4g} (document"
                f" {self.pair + 1})"
            )
        if not words:
            return f"the same (largest change {self.largest:.2g})"
        if self.ranks_moved:
            words.append(f"{self.ranks_moved} documents stand at another rank")
        return "; ".join(words)


def compare(before: Reading, after: Reading, tolerance: float = TOLERANCE) -> Drift:
    """Return how ``after`` differs from ``before``; both are of the same pairs, in the same order.

    Raises:
        ValueError: they are not of equally many pairs.

    """
    changes = [abs(new - old) for old, new in zip(before.scores, after.scores, strict=True)]
    pair = max(range(len(changes)), key=changes.__getitem__, default=0)
    places = zip(_rank(before.scores), _rank(after.scores), strict=True)
    return Drift(
        models=_pair_if_other(before.models, after.models),
        providers=_pair_if_other(before.providers, after.providers),
        largest=changes[pair] if changes else 0.0,
        pair=pair,
        scores_moved=sum(change > tolerance for change in changes),
        ranks_moved=sum(old != new for old, new in places),
    )


def _rank(scores: Sequence[float]) -> list[int]:
    """Return the place of each score, from 0 for the highest; equal ones keep their order."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    places = [0] * len(scores)
    for place, index in enumerate(order):
        places[index] = place
    return places


def _pair_if_other(
    before: tuple[str, ...], after: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    return None if before == after else (before, after)
