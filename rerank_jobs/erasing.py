"""Erasure: a query or a document is gone from everything that the job keeps, but for its input.

First the keys go, from segments and libraries, for they are found by the texts; the texts go last,
files of older generations after the new one is published. So an erasure that was killed anywhere is
completed by the same command. What is erased is written down nowhere: manifests hold counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from rerank_jobs.collecting import is_foreign
from rerank_jobs.config import Job, check_partition_key
from rerank_jobs.enriching import drop_summaries
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.claims import Claim, acquire
from rerank_jobs.ledger.compaction import compact
from rerank_jobs.ledger.library import list_scorers
from rerank_jobs.ledger.masking import Masked, PairKeys, drop_scores, mask_segments
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.plan.frozen import plan_name, read_plan, run_folder
from rerank_jobs.plan.identity import compute_keys
from rerank_jobs.planning import open_roots
from rerank_jobs.publish.generations import read_current, read_generations
from rerank_jobs.publish.leftovers import UNSETTLED_SECONDS, publish_folder, tidy
from rerank_jobs.publish.publisher import Roots, publish_document
from rerank_jobs.publish.retention import name_sources
from rerank_jobs.rewriting import rewrite_generation
from rerank_jobs.runs import IMPORTS
from rerank_jobs.sightings import Sighting, find_sightings
from rerank_jobs.storage import Store, find_stale_scratch
from rerank_jobs.survey import list_partitions
from rerank_jobs.tables.matching import Wanted
from rerank_jobs.upkeep import check_state, prepare_state

__all__ = ["Erased", "ErasedPartition", "erase"]


@dataclass(frozen=True, slots=True)
class ErasedPartition:
    """What of a partition was, or would be, touched; ``generation`` is the current one then."""

    partition: str
    generation: int | None
    rows: int
    documents: int
    rejected: int
    plans: int
    files: int
    ledger: Masked


@dataclass(frozen=True, slots=True)
class Erased:
    """What was, or would be, touched. ``foreign`` partitions are another job's, and were not."""

    partitions: tuple[ErasedPartition, ...]
    library: Masked
    written: bool
    foreign: tuple[str, ...] = ()


def erase(
    job: Job,
    wanted: Wanted,
    partitions: Sequence[str] | None = None,
    *,
    write: bool = False,
) -> Erased:
    """Erase queries or documents from a job's partitions, or only say what that would touch.

    Without ``partitions`` from all of them. The library and what was imported are shared, and are
    always cleaned. Nothing is sent. An unchanged input does not bring anything back, for it counts
    as published; a changed one does, unless it is clean.

    Raises:
        Busy: a live owner works on what would go; nothing was changed in its partition.
        StateError: the state root is not there, of another format, or damaged.
        JobError: the job's layout has no query ids, and one is wanted.

    """
    roots = open_roots(job)
    salt = check_state(roots.state)
    if salt is None:
        raise StateError(f"{roots.state.location}: there is no state here: nothing to erase")
    if write:
        prepare_state(roots.state)
    chosen, foreign = _choose(job, roots.state, partitions)
    seen = [find_sightings(job, roots, one, wanted, salt) for one in chosen]
    keys = PairKeys()
    if wanted.kind == "text":
        both = frozenset(compute_keys(salt, sorted(wanted.values)))
        keys = PairKeys(both, both)
    for sighting in seen:
        keys = keys.plus(sighting.keys)
    with contextlib.ExitStack() as claims:
        if write:
            _claim_plans(roots.state, seen, claims)
        masked = [
            mask_segments(roots.state, f"{one.partition}/run", keys, write=write) for one in seen
        ]
        if write:
            _keep_scores(roots.state, seen)
        library = Masked()
        for scorer in list_scorers(roots.state):
            library = library.plus(drop_scores(roots.state, scorer, keys, write=write))
        done = [
            _finish(job, roots, sighting, ledger, wanted, salt, write=write)
            for sighting, ledger in zip(seen, masked, strict=True)
            if sighting or ledger.pairs
        ]
    if write:
        _clear_temporary(roots)
    return Erased(tuple(done), library, write, foreign)


def _choose(
    job: Job, state: Store, partitions: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """Return this job's partitions of those that are asked for, and another's."""
    chosen: list[str] = []
    foreign: list[str] = []
    for partition in partitions or ():
        check_partition_key(partition)
    for partition in list_partitions(state) if partitions is None else (*partitions, IMPORTS):
        one = read_generations(state, partition, newest=1)
        (foreign if is_foreign(job, one) else chosen).append(partition)
    return chosen, tuple(foreign)


def _claim_plans(state: Store, seen: Sequence[Sighting], claims: contextlib.ExitStack) -> None:
    """Claim all shards of plans that go; whoever is at work on one of them is left alone.

    Raises:
        Busy: somebody is.

    """
    owner = make_process_owner()
    for sighting in seen:
        for identity in sorted(sighting.plans):
            plan = read_plan(state, sighting.partition, identity)
            for shard in plan.shards:
                folder = run_folder(sighting.partition, identity, shard.number)
                claims.enter_context(acquire(state, folder, owner))


def _keep_scores(state: Store, seen: Sequence[Sighting]) -> None:
    """Bring the sealed scores of plans that go into the library; masked pairs have none."""
    for sighting in seen:
        for identity in sorted(sighting.plans):
            with contextlib.suppress(FileNotFoundError):
                scorer = read_plan(state, sighting.partition, identity).scorer_id
                compact(state, scorer, f"{sighting.partition}/run/{identity}", identity)


def _finish(
    job: Job,
    roots: Roots,
    sighting: Sighting,
    ledger: Masked,
    wanted: Wanted,
    salt: bytes,
    *,
    write: bool,
) -> ErasedPartition:
    """Remove texts from a partition, under the claim of its publishing, or only count them."""
    partition = sighting.partition
    if write and sighting:
        with acquire(roots.state, publish_folder(partition), make_process_owner()) as claim:
            # Somebody may have published since.
            sighting = find_sightings(job, roots, partition, wanted, salt)
            _remove_texts(job, roots, sighting, wanted, claim)
    current = read_current(roots.state, partition)
    return ErasedPartition(
        partition=partition,
        generation=current.number if current else None,
        rows=sighting.rows,
        documents=sighting.documents,
        rejected=sighting.rejected,
        plans=len(sighting.plans),
        files=len(sighting.files) + len(sighting.published),
        ledger=ledger,
    )


def _remove_texts(job: Job, roots: Roots, sighting: Sighting, wanted: Wanted, claim: Claim) -> None:
    state, partition = roots.state, sighting.partition
    generations = read_generations(state, partition)
    if sighting.published:
        drop_summaries(job, partition)  # first: a second try would not look here again
        document = rewrite_generation(job, roots, generations, sighting, wanted)
        current = publish_document(job, roots, generations[-1], document, check=claim.check)
        generations = [*generations, current]
    kept = name_sources(generations[-1:])
    for identity in sorted(sighting.plans):
        state.delete(plan_name(partition, identity))  # first: no plan lacks its files
        for entry in state.entries(f"{partition}/run/{identity}"):
            if entry.name.rpartition("/")[2].startswith(("work.", "done.")):
                state.delete(entry.name)
    for name in sorted(sighting.files - kept):
        state.delete(name)
    tidy(roots, partition, job.publish.keep_generations)


def _clear_temporary(roots: Roots) -> None:
    """Remove what processes that died have left: it may hold text."""
    for store in (roots.output, roots.rejected, roots.state):
        for name in store.leftovers(UNSETTLED_SECONDS):
            store.delete(name)
    find_stale_scratch(roots.state.location, remove=True)
