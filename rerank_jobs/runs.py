"""All runs of a state root, of every partition, and whose scores they paid: a library's sources."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from rerank_jobs.errors import StateError
from rerank_jobs.ledger.compaction import read_markers
from rerank_jobs.storage import Store, read_json

__all__ = ["IMPORTS", "Run", "list_runs", "record_name"]

IMPORTS = "imports"
"""Stands in the place of a partition: runs that paid nothing, made by ``ledger import``."""

_SEGMENT = re.compile(r"(([^/]+)/run/([^/]+))/[^/]+/seg/[^/]+\.arrow")


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder and segments; ``scorer_id`` is ``None`` where nothing says it any more."""

    folder: str
    partition: str
    plan_id: str
    scorer_id: str | None
    segments: tuple[str, ...]


def record_name(identity: str) -> str:
    """Return the name of the record of an import."""
    return f"{IMPORTS}/run/{identity}/import.json"


def list_runs(store: Store) -> list[Run]:
    """Return every run that has segments, in order of its folder."""
    found: dict[tuple[str, str, str], list[str]] = {}
    partitions: set[str] = set()
    for entry in store.entries():
        if match := _SEGMENT.fullmatch(entry.name):
            found.setdefault((match[1], match[2], match[3]), []).append(entry.name)
            partitions.add(match[2])
    scorers = {partition: _read_scorers(store, partition) for partition in partitions}
    return [
        Run(
            folder,
            partition,
            plan,
            _find_scorer(store, folder, scorers[partition].get(plan)),
            names,
        )
        for (folder, partition, plan), names in sorted(
            (key, tuple(sorted(names))) for key, names in found.items()
        )
    ]


def _read_scorers(store: Store, partition: str) -> dict[str, str]:
    """Return the scorer of each plan that a plan, a manifest or an import's record names."""
    scorers = {}
    for entry in store.entries(partition):
        folder, _, file = entry.name.removeprefix(f"{partition}/").rpartition("/")
        named = folder in ("plan", "manifest") or file == "import.json"
        if named and file.endswith(".json"):
            with contextlib.suppress(StateError, FileNotFoundError, KeyError):
                document = read_json(store, entry.name)
                scorers[str(document["plan_id"])] = str(document["scorer_id"])
    return scorers


def _find_scorer(store: Store, folder: str, named: str | None) -> str | None:
    if named is not None:
        return named
    marked = {marker.scorer_id for marker in read_markers(store, folder)}
    return marked.pop() if len(marked) == 1 else None
