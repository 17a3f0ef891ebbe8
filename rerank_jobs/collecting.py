"""Garbage collection: what the pure rule names is looked at once more under claims, and removed.

Every step may be the last: what is left then is garbage of the same kind, and the next collection
removes it. A plan goes under the claims of its shards, a partition's files under the claim of its
publishing, so nobody works on what goes; whoever came too late finds the claim, or no plan, and
plans anew from scores that are kept.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rerank_jobs.config import Job, check_partition_key
from rerank_jobs.errors import Busy
from rerank_jobs.garbage import (
    OLD_CLAIMS,
    Garbage,
    Limits,
    PartitionFacts,
    find_library_garbage,
    find_partition_garbage,
)
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.compaction import compact
from rerank_jobs.ledger.library import list_scorers
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.plan.frozen import plan_name
from rerank_jobs.planning import open_roots
from rerank_jobs.publish.generations import Generation
from rerank_jobs.publish.leftovers import publish_folder
from rerank_jobs.publish.publisher import Roots
from rerank_jobs.storage import Store, find_stale_scratch
from rerank_jobs.survey import list_partitions, name_roots, read_library_facts, read_partition
from rerank_jobs.upkeep import check_state, prepare_state

__all__ = ["GRACE_SECONDS", "KEEP_SECONDS", "Collection", "collect", "is_foreign"]

GRACE_SECONDS = 86_400.0
KEEP_SECONDS = 62 * 86_400.0


@dataclass(frozen=True, slots=True)
class Collection:
    """What can go, or went, and what was left alone.

    ``busy`` partitions have a live owner; ``foreign`` ones were published by another job with this
    state root; ``strangers`` are files in the output that no manifest ever named.
    """

    garbage: tuple[Garbage, ...]
    deleted: bool
    busy: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()

    def plus(self, other: Collection) -> Collection:
        """Add up what was found in two places."""
        return Collection(
            self.garbage + other.garbage,
            self.deleted,
            self.busy + other.busy,
            self.foreign + other.foreign,
            self.strangers + other.strangers,
        )


def collect(
    job: Job,
    partitions: Sequence[str] | None = None,
    *,
    delete: bool = False,
    grace: float = GRACE_SECONDS,
    keep: float = KEEP_SECONDS,
    now: float | None = None,
) -> Collection:
    """Find what nothing can reach any more, and remove it if ``delete`` says so.

    Without ``partitions`` all of the state root is looked at, libraries and temporary files too.
    Nothing younger than ``grace`` (seconds) goes, and no segment younger than ``keep`` or of the
    current UTC month. Scores of plans that go are in the library before.

    Raises:
        StateError: the state root is of another format, or a manifest is damaged.

    """
    roots, now = open_roots(job), time.time() if now is None else now
    if check_state(roots.state) is None:
        return Collection((), delete)
    if delete:
        prepare_state(roots.state)
    limits = Limits(now, grace, keep, job.publish.keep_generations)
    collection = Collection((), delete)
    for partition in partitions or ():
        check_partition_key(partition)
    for partition in list_partitions(roots.state) if partitions is None else partitions:
        found = _collect_partition(job, roots, partition, limits, delete=delete)
        collection = collection.plus(found)
    if partitions is None:
        rest = [
            *_collect_libraries(roots.state, limits, delete=delete),
            *_collect_temporary(roots, limits, delete=delete),
        ]
        collection = collection.plus(Collection(tuple(rest), delete))
    return collection


def _collect_partition(
    job: Job, roots: Roots, partition: str, limits: Limits, *, delete: bool
) -> Collection:
    facts = read_partition(roots, partition, limits)
    if is_foreign(job, facts.generations):
        return Collection((), delete, foreign=(partition,))
    strangers = tuple(_find_strangers(job, roots, facts))
    garbage = find_partition_garbage(facts, limits)
    if delete and all(item.kind == OLD_CLAIMS for item in garbage):
        # Without a claim, which would be the next collection's garbage: nobody reads these.
        for item in garbage:
            roots.state.delete(item.name)
    elif delete:
        try:
            garbage = _clear_partition(roots, partition, limits)
        except Busy:
            return Collection((), delete, busy=(partition,), strangers=strangers)
    return Collection(tuple(garbage), delete, strangers=strangers)


def is_foreign(job: Job, generations: Sequence[Generation]) -> bool:
    """Say whether another job published the partition: two jobs may share a state root."""
    return bool(generations) and generations[-1].document["job"] != job.name


def _find_strangers(job: Job, roots: Roots, facts: PartitionFacts) -> Iterator[str]:
    folder = job.partition_folder(facts.partition)
    named = {part.name for one in facts.generations for part in one.parts}
    named |= {entry.name for root, entry in facts.leftovers if root == "output"}
    for entry in roots.output.entries(folder):
        direct = entry.name.rpartition("/")[0] == folder
        if direct and entry.name.endswith(".parquet") and entry.name not in named:
            yield f"{roots.output.location}/{entry.name}"


def _clear_partition(roots: Roots, partition: str, limits: Limits) -> list[Garbage]:
    """Find a partition's garbage again, under the claim of its publishing, and remove it.

    Raises:
        Busy: another owner publishes the partition, or went on with one of its plans.

    """
    stores, owner = dict(name_roots(roots)), make_process_owner()
    with acquire(roots.state, publish_folder(partition), owner) as claim:
        facts = read_partition(roots, partition, limits)
        garbage = find_partition_garbage(facts, limits)
        by_run = itertools.groupby(garbage, key=lambda item: item.plan_id)
        for identity, items in by_run:
            claim.check()
            if identity is None:
                for item in items:
                    stores[item.root].delete(item.name)
            else:
                _clear_run(roots.state, facts, identity, list(items), owner)
    return garbage


def _clear_run(
    state: Store,
    facts: PartitionFacts,
    identity: str,
    items: Sequence[Garbage],
    owner: dict[str, Any],
) -> None:
    """Remove files of one run under the claims of its shards, scores first into the library.

    A plan goes before its files. One that was frozen meanwhile, from files that went, goes too: its
    runners find the claims held.
    """
    name, plan = plan_name(facts.partition, identity), facts.plans.get(identity)
    if plan is None and state.exists(name):
        return  # frozen since the listing: it may need them
    run = f"{facts.partition}/run/{identity}"
    shards = {entry.name.split("/")[3] for entry in facts.entries if entry.name.startswith(run)}
    with contextlib.ExitStack() as claims:
        if any(item.kind != "old ledgers" for item in items):
            for shard in sorted(shard for shard in shards if shard.isdecimal()):
                claims.enter_context(acquire(state, f"{run}/{shard}", owner))
        if plan is not None:
            compact(state, plan.scorer_id, run, identity)
        for item in items:
            state.delete(item.name)
        if any("/work." in item.name for item in items):
            state.delete(name)


def _collect_libraries(state: Store, limits: Limits, *, delete: bool) -> Iterator[Garbage]:
    for scorer in list_scorers(state):
        for item in find_library_garbage(read_library_facts(state, scorer, limits), limits):
            if delete:
                # A compaction may have named it by now.
                if item.name in read_library_facts(state, scorer, limits).reached:
                    continue
                state.delete(item.name)
            yield item


def _collect_temporary(roots: Roots, limits: Limits, *, delete: bool) -> Iterator[Garbage]:
    for root, store in name_roots(roots):
        for name in store.leftovers(limits.grace):
            if delete:
                store.delete(name)
            reason = "left by a process that died while it wrote"
            yield Garbage(root, name, 0, "temporary files", reason)
    for folder in find_stale_scratch(roots.state.location, remove=delete):
        yield Garbage("scratch", str(folder), 0, "scratch folders", "no process uses it")
