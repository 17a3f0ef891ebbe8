"""Leftovers: files that no generation needs any more, and the proof that it is so.

Before files are copied into the output, a *copy list* under state names them and the generation
that they are meant for. Once that number is taken by whomever, what the list names and the current
manifest does not is surely of no use. Until then the copies may be another's, whose commit is on
its way: they are left alone for ``UNSETTLED_SECONDS``, longer than any request can be.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from rerank_jobs.errors import StateError
from rerank_jobs.publish.generations import Generation, Part, iterate_newest
from rerank_jobs.publish.orders import Roots
from rerank_jobs.publish.retention import list_dead_parts, name_sources
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
    names stays: nothing is removed without proof. No more manifests are read than proof needs.
    """
    generations = iterate_newest(roots.state, partition)
    newest = list(itertools.islice(generations, max(2, keep + 1)))
    lists = _read_copy_lists(
        roots.state,
        partition,
        newest[0].number if newest else 0,
        time.time() if now is None else now,
    )
    kept = name_sources(newest[: keep + 1])
    suspects = {
        "parts": _list_suspects(roots.output, "parts", newest, lists),
        "rejected": _list_suspects(roots.rejected, "rejected", newest, lists),
        "source": list_dead_parts(roots.state, partition, kept),
    }
    proven = {kind: _find_proof(kind, suspects[kind], lists) for kind in suspects}
    for earlier in itertools.chain(newest[1:], generations):
        if all(suspects[kind] == proven[kind] for kind in suspects):
            break
        for kind, names in suspects.items():
            proven[kind] |= names & _list_names(earlier, kind)
    # Lists go last: until then they lead whoever comes after a crash to what they name.
    settled = [one.name for one in lists if one.settled]
    return [
        *((roots.output, name) for name in sorted(proven["parts"])),
        *((roots.rejected, name) for name in sorted(proven["rejected"])),
        *((roots.state, name) for name in (*sorted(proven["source"]), *settled)),
    ]


def _list_names(generation: Generation, kind: str) -> set[str]:
    if kind == "source":
        return name_sources([generation])
    return {part.name for part in getattr(generation, kind)}


def _list_suspects(
    store: Store, kind: str, newest: Sequence[Generation], lists: Sequence[_CopyList]
) -> set[str]:
    """Return files that are there, and that neither the current manifest nor an open list names."""
    named = {name for one in lists for name in one.names[kind]}
    named |= {name for generation in newest for name in _list_names(generation, kind)}
    kept = _list_names(newest[0], kind) if newest else set()
    kept |= {name for one in lists if not one.settled for name in one.names[kind]}
    folders = {name.rpartition("/")[0] for name in named}
    there = {entry.name for folder in folders for entry in store.entries(folder)}
    return {name for name in there - kept if name.rpartition("/")[0] in folders}


def _find_proof(kind: str, suspects: set[str], lists: Sequence[_CopyList]) -> set[str]:
    if kind == "source":
        return set()
    return suspects & {name for one in lists if one.settled for name in one.names[kind]}


def tidy(roots: Roots, partition: str, keep: int, *, now: float | None = None) -> list[str]:
    """Remove what ``find_leftovers`` finds; return its names.

    Only for the one process that publishes the partition.
    """
    leftovers = find_leftovers(roots, partition, keep, now=now)
    for store, name in leftovers:
        store.delete(name)
    return [name for _, name in leftovers]


def _read_copy_lists(state: Store, partition: str, current: int, now: float) -> list[_CopyList]:
    found = []
    for entry in state.entries(publish_folder(partition)):
        if entry.name.endswith(".json") and "/claim/" not in entry.name:
            with contextlib.suppress(StateError, FileNotFoundError):
                names = read_json(state, entry.name)
                settled = int(names.get("generation", 0)) <= current
                settled = settled or now - entry.modified >= UNSETTLED_SECONDS
                found.append(_CopyList(entry.name, names, settled))
    return found
