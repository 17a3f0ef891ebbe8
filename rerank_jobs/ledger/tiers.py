"""Which files of the library are merged: a pure rule that keeps them few and the work small."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["choose_merge"]


def choose_merge(rows: Sequence[int]) -> tuple[int, ...]:
    """Return the positions of the files to merge into one, given their row counts; none: ``()``.

    The files are chosen from the smallest on, as far as a file holds at most as many rows as all
    smaller ones together. Whenever nothing is chosen, each file holds more rows than all smaller
    ones together, so n rows lie in at most log2(n) + 1 files. What is merged lies in a file at
    least twice as large afterwards, unless rows vanish as repeats, each of them once: n rows that
    are added in any portions are written O(n log n) times in all.
    """
    order = sorted(range(len(rows)), key=lambda position: (rows[position], position))
    chosen = smaller = 0
    for count, position in enumerate(order):
        if count and rows[position] <= smaller:
            chosen = count + 1
        smaller += rows[position]
    return tuple(sorted(order[:chosen]))
