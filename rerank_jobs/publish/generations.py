"""Generations: numbered, immutable manifests; creating one is the commit of a partition.

A commit has three outcomes, and each is told apart: it landed (the manifest is returned), it did
not land (``Superseded``: another generation stands there), or nobody knows (``CommitUnknown``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from rerank_jobs.errors import CommitUnknown, StateError
from rerank_jobs.storage import Put, Store, read_json, seal_json
from rerank_jobs.storage.store import iterate_numbered

__all__ = [
    "Generation",
    "Part",
    "Superseded",
    "commit",
    "iterate_newest",
    "manifest_name",
    "read_current",
    "read_generations",
]


class Superseded(Exception):
    """The commit surely did not land: another process committed this generation first."""


@dataclass(frozen=True, slots=True)
class Part:
    """A published file: name under its root, SHA-256, bytes, rows.

    ``source`` names its copy under state, ``None`` where none was kept.
    """

    name: str
    sha256: str
    size: int
    rows: int
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One published generation of a partition; ``document`` is the whole manifest.

    ``withdrawn`` are plans that going back to this generation took back.
    """

    number: int
    name: str
    plan_id: str
    parts: tuple[Part, ...]
    rejected: tuple[Part, ...]
    document: dict[str, Any]
    withdrawn: tuple[str, ...] = ()


def manifest_name(partition: str, number: int) -> str:
    """Return a manifest's name in the state root."""
    return f"{partition}/manifest/{number:020d}.json"


def read_generations(
    store: Store, partition: str, *, newest: int | None = None
) -> list[Generation]:
    """Return the generations of a partition, oldest first, without those whose manifest is damaged.

    With ``newest`` only the last so many are read.

    Raises:
        StateError: the current generation's manifest is damaged.

    """
    return list(itertools.islice(iterate_newest(store, partition), newest))[::-1]


def iterate_newest(store: Store, partition: str) -> Iterator[Generation]:
    """Yield the generations from the current one backwards, each read when it is asked for.

    Raises:
        StateError: the current generation's manifest is damaged; an older one is left out.

    """
    names = [name for _, name in iterate_numbered(store, f"{partition}/manifest", ".json")]
    for name in reversed(names):
        try:
            yield _read(store, name)
        except StateError:
            if name == names[-1]:
                raise


def read_current(store: Store, partition: str) -> Generation | None:
    """Return the current generation, ``None`` before the first.

    Raises:
        StateError: its manifest is damaged.

    """
    return next(iterate_newest(store, partition), None)


def commit(store: Store, partition: str, previous: int, document: dict[str, Any]) -> Generation:
    """Create generation ``previous + 1``, which asserts that ``previous`` is current.

    Raises:
        Superseded: it did not land; another generation has this number.
        CommitUnknown: the store failed and does not say whether it landed.

    """
    name = manifest_name(partition, previous + 1)
    data = seal_json({**document, "generation": previous + 1, "previous": previous})
    try:
        landed = store.put_if_absent(name, data) is not Put.OTHER
    except OSError as error:
        landed = _look(store, name, data, error)
    if not landed:
        raise Superseded(name)
    return _decode(name, orjson.loads(data))


def _look(store: Store, name: str, data: bytes, error: OSError) -> bool:
    """After a failure: our own bytes there mean that it landed; others' that it did not."""
    try:
        return store.read(name) == data
    except OSError:
        raise CommitUnknown(
            f"{store.location}/{name}: the commit failed ({type(error).__name__}) and cannot be"
            " read back: nothing was deleted; run again to settle it"
        ) from error


def _read(store: Store, name: str) -> Generation:
    try:
        return _decode(name, read_json(store, name))
    except StateError as error:
        raise StateError(
            f"{error}, or remove it and run again: the table is published anew from what is paid"
        ) from None


def _decode(name: str, document: dict[str, Any]) -> Generation:
    try:
        return Generation(
            number=int(document["generation"]),
            name=name,
            plan_id=str(document["plan_id"]),
            parts=tuple(Part(**part) for part in document["parts"]),
            rejected=tuple(Part(**part) for part in document["rejected"]),
            document=document,
            withdrawn=tuple(document.get("withdrawn", ())),
        )
    except (KeyError, TypeError, ValueError):
        raise StateError(f"{name}: not a manifest of this version: use that version") from None
