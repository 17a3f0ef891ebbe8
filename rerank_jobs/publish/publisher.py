"""Publishing a plan: gates, parts copied into place, one commit, then what is superseded goes.

A reader that follows manifests sees the old generation or the new one, never a mixture. Publishing
the plan that is current already changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from rerank_jobs import __version__
from rerank_jobs.config import Job
from rerank_jobs.contracts import contract_versions
from rerank_jobs.errors import GateFailed, StateError
from rerank_jobs.publish.generations import (
    Generation,
    Part,
    Superseded,
    commit,
    read_current,
    read_generations,
)
from rerank_jobs.storage import Put, Store, read_json, seal_json, sha256_of_file

__all__ = [
    "PublishOrder",
    "Roots",
    "ShardPart",
    "check_gates",
    "find_published",
    "publish_plan",
    "tidy",
]


@dataclass(frozen=True, slots=True)
class Roots:
    """The three places of a job: published data, rejected rows, and everything else."""

    output: Store
    rejected: Store
    state: Store


@dataclass(frozen=True, slots=True)
class ShardPart:
    """A finished shard: its part under state (``None`` without rows), its documents by status."""

    shard: int
    part: Part | None
    statuses: dict[str, int]


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """All that a generation is made of; ``facts`` go into the manifest as they are."""

    partition: str
    folder: str
    plan_id: str
    shards: Sequence[ShardPart]
    rejected: Part | None
    rows: int
    documents: int
    facts: dict[str, Any]


def check_gates(job: Job, order: PublishOrder) -> None:
    """Check what must hold before anything becomes visible.

    Raises:
        GateFailed: too many documents failed.
        StateError: the parts do not add up to the plan.

    """
    rows = sum(shard.part.rows for shard in order.shards if shard.part)
    counts = _add_statuses(order.shards)
    documents = sum(counts.values())
    if (rows, documents) != (order.rows, order.documents):
        raise StateError(
            f"plan {order.plan_id[:8]}: parts hold {rows:,} rows and {documents:,} documents, the"
            f" plan {order.rows:,} and {order.documents:,}: nothing was published; run again"
        )
    failed = counts.get("failed", 0)
    fraction = failed / documents if documents else 0.0
    again = "run again with --retry-failed to send them once more"
    if failed and job.failures.on_failed == "fail":
        raise GateFailed(
            f"{failed:,} of {documents:,} documents failed (failures.on_failed: fail): {again}"
        )
    if fraction > job.failures.max_failed_fraction:
        raise GateFailed(
            f"{failed:,} of {documents:,} documents failed ({fraction:.2%}, over"
            f" failures.max_failed_fraction {job.failures.max_failed_fraction:.2%}): nothing was"
            f" published; {again}, or allow more"
        )


def find_published(roots: Roots, partition: str, plan_id: str) -> Generation | None:
    """Return the current generation if it is this plan's and all of its files are there."""
    current = read_current(roots.state, partition)
    if current is None or current.plan_id != plan_id:
        return None
    whole = all(roots.output.exists(part.name) for part in current.parts)
    whole = whole and all(roots.rejected.exists(part.name) for part in current.rejected)
    return current if whole else None


def publish_plan(
    job: Job, roots: Roots, order: PublishOrder, *, check: Callable[[], None] = lambda: None
) -> Generation:
    """Publish the order as the next generation, or return the current one if it is this plan's.

    One process publishes a partition at a time; ``check`` raises if it is no longer this one.

    A current generation of this plan whose files somebody removed is followed by a whole one.

    Raises:
        GateFailed, StateError: see ``check_gates``.
        CommitUnknown: see ``commit``; nothing was deleted.

    """
    while True:
        published = find_published(roots, order.partition, order.plan_id)
        if published is not None:
            tidy(roots, order.partition)
            return published
        current = read_current(roots.state, order.partition)
        check_gates(job, order)
        previous = current.number if current else 0
        try:
            document = _copy_all(roots, order)
            check()
            generation = commit(roots.state, order.partition, previous, document)
        except Superseded:
            continue
        except FileNotFoundError:
            # A run that published this plan in the meantime has retired its parts.
            if read_current(roots.state, order.partition) != current:
                continue
            raise StateError(
                f"{roots.state.location}: a finished part of plan {order.plan_id[:8]} is gone: run"
                " again"
            ) from None
        tidy(roots, order.partition)
        return generation


def find_leftovers(roots: Roots, partition: str) -> list[tuple[Store, str]]:
    """Return published files that the current manifest does not name but an earlier one did.

    So does the list that a publisher leaves before it copies: a crash before its commit leaves no
    other trace. What a damaged manifest names stays: nothing is removed without proof.
    """
    generations = read_generations(roots.state, partition)
    lists = _read_copy_lists(roots.state, partition)
    found = []
    for store, kind in ((roots.output, "parts"), (roots.rejected, "rejected")):
        kept = {part.name for part in getattr(generations[-1], kind)} if generations else set()
        named = {part.name for old in generations[:-1] for part in getattr(old, kind)}
        named |= {name for document in lists.values() for name in document[kind]}
        found += [(store, name) for name in sorted(named - kept) if store.exists(name)]
    return found


def tidy(roots: Roots, partition: str) -> list[str]:
    """Remove what ``find_leftovers`` finds; return its names.

    Only for the one process that publishes the partition: another's copies would be leftovers.
    """
    leftovers = find_leftovers(roots, partition)
    for store, name in leftovers:
        store.delete(name)
    for name in _read_copy_lists(roots.state, partition):
        roots.state.delete(name)
    return [name for _, name in leftovers]


def publish_folder(partition: str) -> str:
    """Return the folder of claims and copy lists of a partition's publishing."""
    return f"{partition}/publish"


def _read_copy_lists(state: Store, partition: str) -> dict[str, dict[str, Any]]:
    found = {}
    for entry in state.entries(publish_folder(partition)):
        if entry.name.endswith(".json") and "/claim/" not in entry.name:
            with contextlib.suppress(StateError, FileNotFoundError):
                found[entry.name] = read_json(state, entry.name)
    return found


def _copy_all(roots: Roots, order: PublishOrder) -> dict[str, Any]:
    """Put all files into place, beside those that are current; return their manifest."""
    parts = [_place(order.folder, s.part, s.shard) for s in order.shards]
    rejected = [_place(order.folder, order.rejected, 0)]
    names = {
        "parts": [target.name for _, target in filter(None, parts)],
        "rejected": [target.name for _, target in filter(None, rejected)],
    }
    copy_list = f"{publish_folder(order.partition)}/{order.plan_id}.json"
    roots.state.put_if_absent(copy_list, seal_json(names))
    for store, places in ((roots.output, parts), (roots.rejected, rejected)):
        for source, target in filter(None, places):
            _copy(roots.state, store, source, target)
    return _describe(
        order, [part for _, part in filter(None, parts)], [p for _, p in filter(None, rejected)]
    )


def _place(folder: str, part: Part | None, shard: int) -> tuple[Part, Part] | None:
    """Return (part under state, part as it will be published)."""
    if part is None:
        return None
    file = f"part-{shard:05d}-{part.sha256[:8]}.parquet"
    name = f"{folder}/{file}" if folder else file
    return part, Part(name, part.sha256, part.size, part.rows)


def _copy(state: Store, store: Store, source: Part, target: Part) -> None:
    path = state.fetch(source.name)
    if sha256_of_file(path) != source.sha256:
        raise StateError(
            f"{state.location}/{source.name}: a finished part is damaged: nothing was published;"
            " run again"
        )
    if store.put_file_if_absent(target.name, path) is Put.OTHER:
        raise StateError(
            f"{store.location}/{target.name}: a different file has this part's name: remove it,"
            " run again"
        )


def _describe(order: PublishOrder, parts: list[Part], rejected: list[Part]) -> dict[str, Any]:
    return {
        "contract": "manifest",
        "version": contract_versions()["manifest"],
        "written_by": f"rerank-jobs {__version__}",
        "write_id": uuid4().hex,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "partition": order.partition,
        "plan_id": order.plan_id,
        "contracts": contract_versions(),
        "parts": [asdict(part) for part in parts],
        "rejected": [asdict(part) for part in rejected],
        "statuses": _add_statuses(order.shards),
        **order.facts,
    }


def _add_statuses(shards: Sequence[ShardPart]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for shard in shards:
        for status, count in shard.statuses.items():
            counts[status] = counts.get(status, 0) + count
    return counts
