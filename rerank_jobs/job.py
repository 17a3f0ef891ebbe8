"""The composition: a job's partition planned, scored, published and reported, in one pass.

``run`` does all of it in this process; an Airflow task group calls the same steps one by one.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rerank_jobs.config import ALL, Job
from rerank_jobs.dollars import show_usd
from rerank_jobs.embedded import open_transport
from rerank_jobs.errors import Interrupted, JobError, StateError, Stopped
from rerank_jobs.ledger.compaction import compact
from rerank_jobs.ledger.loading import Spent
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.model import ScoreTotals
from rerank_jobs.parts import drop_spoiled
from rerank_jobs.plan.frozen import Plan
from rerank_jobs.plan.promise import Promise
from rerank_jobs.planning import (
    Planned,
    find_plan,
    open_roots,
    plan_partition,
    preview_partition,
)
from rerank_jobs.publish.generations import Generation, Part
from rerank_jobs.publish.publisher import ShardPart, find_published
from rerank_jobs.publishing import get_frozen, publish_partition, read_all_done
from rerank_jobs.score import Progress
from rerank_jobs.shard import Bounds, ShardResult, score_shard
from rerank_jobs.storage import open_store
from rerank_jobs.upkeep import add_up_spent, drop_work_files

__all__ = [
    "Planned",
    "RunResult",
    "find_plan",
    "open_roots",
    "plan_partition",
    "preview_partition",
    "publish_partition",
    "run_partition",
    "score_partition_shard",
]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did: ``totals`` are this process's own, ``spent`` the whole plan's."""

    partition: str
    plan_id: str
    promise: Promise
    totals: ScoreTotals
    spent: Spent
    generation: Generation | None
    sample: tuple[Part, ...]
    statuses: dict[str, int]
    seconds: float


def score_partition_shard(
    job: Job,
    plan: Plan,
    number: int,
    *,
    owner: dict[str, Any] | None = None,
    observe: Callable[[Progress], None] | None = None,
    bounds: Bounds | None = None,
) -> ShardResult:
    """Score one shard of a frozen plan; see ``rerank_jobs.shard.score_shard``.

    Without ``bounds`` the job's ``max_runtime`` alone bounds it. A stop says what is kept. A plan
    whose files are gone or damaged is removed, so that planning makes it again.
    """
    state = open_store(job.state_root)
    try:
        with drop_spoiled(state, plan):
            return score_shard(
                job,
                plan,
                number,
                store=state,
                owner=owner or make_process_owner(),
                transport=functools.partial(open_transport, job),
                observe=observe,
                bounds=bounds or Bounds(max_seconds=job.max_runtime),
            )
    except (Stopped, Interrupted) as error:
        spent, promise = add_up_spent(state, plan), plan.promise
        error.note_kept(
            f"kept: {spent.requests:,} of {promise.requests:,} requests,"
            f" {show_usd(spent.cost_usd)} of {show_usd(promise.cost_usd)}"
        )
        raise


def run_partition(
    job: Job,
    partition: str = ALL,
    *,
    limit_queries: int | None = None,
    retry_failed: bool = False,
    extra_usd: float = 0.0,
    on_plan: Callable[[Planned], None] | None = None,
    observe: Callable[[int, Progress], None] | None = None,
) -> RunResult:
    """Plan, score and publish a partition in this process; resumable at every point.

    With ``limit_queries`` a sample is scored and paid but not published: its scores wait in the
    library. ``extra_usd`` may be spent beyond the plan's allowances. ``on_plan`` is told the plan
    before anything is sent, ``observe`` (shard, progress).
    """
    started = time.monotonic()
    planned = plan_partition(job, partition, limit_queries=limit_queries)
    if retry_failed and planned.current is not None:
        _refuse_late_retry(job, planned.current)
    if on_plan is not None:
        on_plan(planned)
    totals = ScoreTotals()
    if planned.plan is not None:
        for number in range(len(planned.plan.shards)):
            watch = functools.partial(observe, number) if observe is not None else None
            try:
                result = score_partition_shard(
                    job,
                    planned.plan,
                    number,
                    observe=watch,
                    bounds=Bounds(retry_failed, extra_usd, _time_left(job, started)),
                )
            except StateError:
                # Another run of this plan may have published it, and cleared it away.
                if find_published(open_roots(job), partition, planned.plan_id) is None:
                    raise
                break
            totals = totals.plus(result.totals)
            extra_usd -= result.extra_used_usd
    if limit_queries is None:
        generation = publish_partition(job, planned)
        spent = Spent(**generation.document["spent"])
        return _result(planned, totals, spent, generation, (), started)
    state = open_store(job.state_root)
    plan = get_frozen(planned)
    spent = add_up_spent(state, plan)
    compact(state, plan.scorer_id, f"{partition}/run/{plan.plan_id}", plan.plan_id)
    done = read_all_done(state, plan)
    drop_work_files(state, partition, plan.plan_id)
    return _result(planned, totals, spent, None, tuple(done), started)


def _time_left(job: Job, started: float) -> float | None:
    if job.max_runtime is None:
        return None
    return max(0.0, started + job.max_runtime - time.monotonic())


def _refuse_late_retry(job: Job, current: Generation) -> None:
    """Say so rather than do nothing: what failed in a published plan is not sent again."""
    failed = current.document["statuses"].get("failed", 0)
    if failed:
        raise JobError(
            f"job {job.name}: generation {current.number} is published with {failed:,} failed"
            " documents: --retry-failed works before publishing; a changed input, or another"
            " endpoint.revision, makes a new plan"
        )


def _result(
    planned: Planned,
    totals: ScoreTotals,
    spent: Spent,
    generation: Generation | None,
    sample: tuple[ShardPart, ...],
    started: float,
) -> RunResult:
    if generation is not None:
        statuses = dict(generation.document["statuses"])
    else:
        statuses = {}
        for shard in sample:
            for status, count in shard.statuses.items():
                statuses[status] = statuses.get(status, 0) + count
    return RunResult(
        partition=planned.partition,
        plan_id=planned.plan_id,
        promise=planned.promise,
        totals=totals,
        spent=spent,
        generation=generation,
        sample=tuple(shard.part for shard in sample if shard.part),
        statuses=statuses,
        seconds=time.monotonic() - started,
    )
