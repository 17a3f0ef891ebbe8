"""Leftovers: files that no generation needs any more, and the proof that it is so.

Before files are copied into the output, a *copy list* under state names them and the generation
that they are meant for. Once that number is taken by whomever, what the list names and the current
manifest does not is surely of no use. Until then the copies may be another's, whose commit is on
its way: they are left alone for ``UNSETTLED_SECONDS``, longer than any request can be.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from rerank_jobs.errors import StateError
from rerank_jobs.publish.generations import Generation, Part, read_generations
from rerank_jobs.publish.orders import Roots
from rerank_jobs.publish.retention import find_expired
from rerank_jobs.storage import Store, read_json, seal_json

__all__ = ["announce_copies", "find_leftovers", "publish_folder", "tidy"]

UNSETTLED_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class _CopyList:
    """A copy list: its name, what it names, and whether its copies can no longer become current."""

    name: str
    names: dict[str, Any]
    settled: bool


def publish_folder(partition: str) -> str:
    """Return the folder of claims and copy lists of a partition's publishing."""
    return f"{partition}/publish"


def announce_copies(
    state: Store, partition: str, number: int, parts: Sequence[Part], rejected: Sequence[Part]
) -> None:
    """Leave the list of files that are about to be copied for generation ``number``."""
    names = {
        "generation": number,
        "parts": [part.name for part in parts],
        "rejected": [part.name for part in rejected],
    }
    name = f"{publish_folder(partition)}/{number:020d}-{uuid4().hex}.json"
    state.put_if_absent(name, seal_json(names))


def find_leftovers(
    roots: Roots, partition: str, keep: int, *, now: float | None = None
) -> list[tuple[Store, str]]:
    """Return what nothing needs any more.

    Published files that the current manifest does not name, but an earlier one or a settled copy
    list does; settled copy lists; state parts that fell out of retention. What a damaged manifest
    names stays: nothing is removed without proof.
    """
    generations = read_generations(roots.state, partition)
    lists = _read_copy_lists(
        roots.state, partition, generations, time.time() if now is None else now
    )
    found = []
    for store, kind in ((roots.output, "parts"), (roots.rejected, "rejected")):
        kept = {part.name for part in getattr(generations[-1], kind)} if generations else set()
        named = {part.name for old in generations[:-1] for part in getattr(old, kind)}
        for one in lists:
            (named if one.settled else kept).update(one.names[kind])
        found += [(store, name) for name in sorted(named - kept) if store.exists(name)]
    expired = find_expired(roots.state, partition, generations, keep)
    # Lists go last: until then they lead whoever comes after a crash to what they name.
    names = [*expired, *(one.name for one in lists if one.settled)]
    return found + [(roots.state, name) for name in names]


def tidy(roots: Roots, partition: str, keep: int, *, now: float | None = None) -> list[str]:
    """Remove what ``find_leftovers`` finds; return its names.

    Only for the one process that publishes the partition.
    """
    leftovers = find_leftovers(roots, partition, keep, now=now)
    for store, name in leftovers:
        store.delete(name)
    return [name for _, name in leftovers]


def _read_copy_lists(
    state: Store, partition: str, generations: Sequence[Generation], now: float
) -> list[_CopyList]:
    current = generations[-1].number if generations else 0
    found = []
    for entry in state.entries(publish_folder(partition)):
        if entry.name.endswith(".json") and "/claim/" not in entry.name:
            with contextlib.suppress(StateError, FileNotFoundError):
                names = read_json(state, entry.name)
                settled = int(names.get("generation", 0)) <= current
                settled = settled or now - entry.modified >= UNSETTLED_SECONDS
                found.append(_CopyList(entry.name, names, settled))
    return found
