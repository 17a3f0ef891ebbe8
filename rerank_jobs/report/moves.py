"""How far documents moved, as counts of a few classes; and those counts as a picture. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

__all__ = ["Moves", "count_moves", "draw_moves", "name_classes"]

_EDGES = (1, 2, 3, 5, 10, 20)
"""Where classes of places moved begin, up and down alike; 0 has a class of its own."""

_NAME, _BAR, _ROW = 56, 220, 18
"""Of the picture, about a pixel each: room for a name and for the longest bar; height of a row."""


@dataclass(frozen=True, slots=True)
class Moves:
    """Counts of documents by places moved, from far down to far up (``name_classes``).

    ``documents`` of them were counted, in published order, out of ``of``; ``places`` is the sum of
    what they moved, up or down.
    """

    counts: tuple[int, ...]
    documents: int
    places: int
    of: int


def name_classes() -> tuple[str, ...]:
    """Return the names of the classes of ``Moves.counts``: places moved, positive is up."""
    ups = []
    for first, after in zip(_EDGES, (*_EDGES[1:], None), strict=True):
        last = None if after is None else after - 1
        ups.append(
            f"{first}+" if last is None else f"{first}" if last == first else f"{first}-{last}"
        )
    return (
        *(f"\N{MINUS SIGN}{name}" for name in reversed(ups)),
        "0",
        *(f"+{name}" for name in ups),
    )


def count_moves(deltas: Iterable[npt.NDArray[np.integer]], of: int) -> Moves:
    """Count arrays of first-stage rank minus rank, of a table with ``of`` documents."""
    counts, documents, places = np.zeros(2 * len(_EDGES) + 1, dtype=np.int64), 0, 0
    for delta in deltas:
        size = np.abs(delta.astype(np.int64))
        steps = np.searchsorted(_EDGES, size, side="right") * np.sign(delta)
        counts += np.bincount(steps + len(_EDGES), minlength=len(counts))
        documents += len(delta)
        places += int(size.sum())
    return Moves(tuple(counts.tolist()), documents, places, of)


def draw_moves(moves: Moves) -> str:
    """Return an inline SVG of bars, one a class; colours are the page's (``.up`` and others)."""
    most, names = max(moves.counts, default=0) or 1, name_classes()
    middle = len(names) // 2
    drawn = []
    for index, (name, count) in enumerate(zip(names, moves.counts, strict=True)):
        width = max(_BAR * count / most, 1.0 if count else 0.0)
        top = (len(names) - 1 - index) * _ROW  # what moved up stands above
        kind = "down" if index < middle else "up" if index > middle else "same"
        drawn.append(
            f"<g><title>{escape(name)}: {count:,} documents</title>"
            f'<text class="name" x="{_NAME - 8}" y="{top + 13}">{escape(name)}</text>'
            f'<rect class="{kind}" x="{_NAME}" y="{top + 2}" width="{width:.1f}" height="14"/>'
            f'<text x="{_NAME + width + 6:.1f}" y="{top + 13}">'
            f"{_share(count, moves.documents)}</text></g>"
        )
    size = f"{_NAME + _BAR + _NAME} {_ROW * len(names)}"
    return (
        f'<svg viewBox="0 0 {size}" role="img" aria-label="Documents by places moved">'
        f"{''.join(drawn)}</svg>"
    )


def _share(count: int, documents: int) -> str:
    if not count:
        return ""
    share = count / documents
    return "&lt;1%" if share < 0.01 else f"{share:.0%}"
