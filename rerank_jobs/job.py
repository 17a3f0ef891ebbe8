"""The composition: a job's partition planned, scored, published and reported, in one pass.

``run`` does all of it in this process; an Airflow task group calls the same steps one by one.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rerank_jobs.budgets import Outlook, check_outlook, foresee
from rerank_jobs.config import ALL, Job, check_partition_key, read_api_key
from rerank_jobs.dollars import show_usd
from rerank_jobs.embedded import identify_scorer, open_transport
from rerank_jobs.errors import Interrupted, JobError, StateError, Stopped
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.library import compact, lookup_sql, read_library
from rerank_jobs.ledger.loading import Spent
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.model import ScoreTotals
from rerank_jobs.parts import read_done
from rerank_jobs.plan.build import build_plan, count_shards
from rerank_jobs.plan.counting import ESTIMATE
from rerank_jobs.plan.frozen import Plan, freeze, identify, plan_name, read_plan, run_folder
from rerank_jobs.plan.promise import Promise, check_budget
from rerank_jobs.plan.tokenizer import make_counter, read_tokenizer
from rerank_jobs.publish.generations import Generation, Part, read_generations
from rerank_jobs.publish.publisher import (
    PublishOrder,
    Roots,
    ShardPart,
    find_leftovers,
    find_published,
    publish_folder,
    publish_plan,
    tidy,
)
from rerank_jobs.score import DIALECTS, Progress, body_fields, ranks_listwise, read_access
from rerank_jobs.shard import Bounds, ShardResult, score_shard
from rerank_jobs.storage import Store, open_store, scratch_folder
from rerank_jobs.tables.sources import open_input
from rerank_jobs.upkeep import (
    add_up_spent,
    compact_unfinished,
    drop_work_files,
    prepare_state,
    retire_plan,
)

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
class Planned:
    """A partition's plan: frozen (``plan``), or published already (``current``).

    ``paid`` is what earlier runs of a frozen plan have sealed; ``outlook`` where the budgets of the
    day and the month stand before it.
    """

    partition: str
    plan_id: str
    promise: Promise
    plan: Plan | None
    current: Generation | None
    paid: Spent | None = None
    outlook: Outlook = dataclasses.field(default_factory=Outlook)


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


def open_roots(job: Job) -> Roots:
    """Return the stores of a job; nothing is created yet."""
    return Roots(
        open_store(job.output_root), open_store(job.rejected_root), open_store(job.state_root)
    )


def plan_partition(job: Job, partition: str = ALL, *, limit_queries: int | None = None) -> Planned:
    """Plan a partition and freeze the plan, or return what is frozen or published already.

    Raises:
        JobError: the endpoint's dialect does not take a field that the job sets.
        InputError: the table cannot be used.
        BudgetStop: the plan may cost more than a budget has left; nothing is frozen.
        KeyStop: the endpoint needs a key or a secret header and there is none.

    """
    return _plan(job, partition, limit_queries, frozen=True)


def preview_partition(
    job: Job, partition: str = ALL, *, limit_queries: int | None = None
) -> Planned:
    """Price a partition without freezing anything: what ``rerank-jobs plan`` prints."""
    return _plan(job, partition, limit_queries, frozen=False)


def _plan(job: Job, partition: str, limit_queries: int | None, *, frozen: bool) -> Planned:
    check_partition_key(partition)
    body_fields(job.endpoint)  # a field that the dialect does not take is told before any work
    table = open_input(job, partition)
    roots = open_roots(job)
    state = roots.state
    scorer = identify_scorer(job)
    shards = count_shards(table.rows, job.shards.rows_per_shard)
    tokenizer = read_tokenizer(job)
    digest = tokenizer.sha256 if tokenizer else None
    identity = identify(job, table, partition, scorer, shards, limit_queries, digest)
    current = find_published(roots, partition, identity)
    if current is not None:
        return Planned(partition, identity, Promise(**current.document["promise"]), None, current)
    if state.exists(plan_name(partition, identity)):
        plan = read_plan(state, partition, identity)
        outlook = foresee(job, state, partition, identity, plan, now=time.time())
        if frozen:
            check_budget(job, plan.promise)
            check_outlook(job, outlook)
        paid = add_up_spent(state, plan)
        return Planned(partition, identity, plan.promise, plan, None, paid, outlook)
    if frozen:
        read_api_key(job.endpoint)
        read_access(job.endpoint, job.resolve)
    salt = prepare_state(state)
    compact_unfinished(state, partition, read_generations(state, partition))
    cutoff = datetime.now(UTC) - timedelta(days=job.reuse.max_age_days)
    library = lookup_sql(state, read_library(state, scorer), cutoff)
    with scratch_folder(state.location) as folder:
        draft = build_plan(
            job,
            table,
            salt=salt,
            library=library,
            folder=folder,
            limit_queries=limit_queries,
            max_passages=DIALECTS[job.endpoint.dialect].max_passages,
            listwise=ranks_listwise(job.endpoint),
            counter=make_counter(tokenizer) if tokenizer else ESTIMATE,
        )
        outlook = foresee(job, state, partition, identity, draft, now=time.time())
        if not frozen:
            return Planned(partition, identity, draft.promise, None, None, outlook=outlook)
        check_budget(job, draft.promise)
        check_outlook(job, outlook)
        plan = freeze(state, job, table, partition, scorer, identity, draft)
    return Planned(partition, identity, plan.promise, plan, None, outlook=outlook)


def find_plan(job: Job, partition: str, plan_id: str) -> Planned:
    """Return a plan by its id, frozen or published: how a task finds what an earlier task planned.

    Raises:
        StateError: there is no such plan (any more): plan the partition again.

    """
    roots = open_roots(job)
    state = roots.state
    current = find_published(roots, partition, plan_id)
    if current is not None:
        return Planned(partition, plan_id, Promise(**current.document["promise"]), None, current)
    try:
        plan = read_plan(state, partition, plan_id)
    except FileNotFoundError:
        raise StateError(
            f"{state.location}: partition {partition} has no plan {plan_id[:8]}: plan it again"
        ) from None
    return Planned(partition, plan_id, plan.promise, plan, None)


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

    Without ``bounds`` the job's ``max_runtime`` alone bounds it. A stop says what is kept.
    """
    state = open_store(job.state_root)
    try:
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


def publish_partition(
    job: Job, planned: Planned, *, owner: dict[str, Any] | None = None
) -> Generation:
    """Publish a plan whose shards are all done; the current plan's generation is returned as it is.

    Afterwards its scores are in the library and its work files, which hold text, are gone.

    Raises:
        StateError: a shard is not done, or parts do not add up.
        GateFailed: a gate forbids it.
        Busy, Fenced: another owner publishes the partition.

    """
    roots = open_roots(job)
    folder, owner = publish_folder(planned.partition), owner or make_process_owner()
    current = planned.current or find_published(roots, planned.partition, planned.plan_id)
    if current is not None:
        scorer = current.document["scorer_id"]
        retire_plan(roots.state, planned.partition, planned.plan_id, scorer)
        if find_leftovers(roots, planned.partition):
            with acquire(roots.state, folder, owner):
                tidy(roots, planned.partition)
        return current
    plan = _frozen(planned)
    done = _read_all_done(roots.state, plan)
    rejected = None
    if plan.rejected is not None:
        rows = sum(plan.promise.reasons.values())
        rejected = Part(plan.rejected.name, plan.rejected.sha256, plan.rejected.size, rows)
    order = PublishOrder(
        partition=plan.partition,
        folder=job.partition_folder(plan.partition),
        plan_id=plan.plan_id,
        shards=done,
        rejected=rejected,
        rows=plan.promise.rows_out,
        documents=plan.promise.candidates_out,
        facts={
            "job": job.name,
            "layout": job.input.layout,
            "scorer_id": plan.scorer_id,
            "endpoint": {"url": job.endpoint.url, "model": job.endpoint.model},
            "inputs": [list(item) for item in plan.inputs],
            "policy": job.policy(),
            "promise": plan.promise.to_json(),
            "spent": dataclasses.asdict(add_up_spent(roots.state, plan)),
        },
    )
    with acquire(roots.state, folder, owner) as claim:
        generation = publish_plan(job, roots, order, check=claim.check)
    retire_plan(roots.state, plan.partition, plan.plan_id, plan.scorer_id)
    return generation


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
    plan = _frozen(planned)
    spent = add_up_spent(state, plan)
    compact(state, plan.scorer_id, f"{partition}/run/{plan.plan_id}", plan.plan_id)
    done = _read_all_done(state, plan)
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


def _frozen(planned: Planned) -> Plan:
    if planned.plan is None:
        raise StateError(f"plan {planned.plan_id[:8]} is not frozen")
    return planned.plan


def _read_all_done(state: Store, plan: Plan) -> list[ShardPart]:
    done = []
    for shard in plan.shards:
        part = read_done(state, run_folder(plan.partition, plan.plan_id, shard.number))
        if part is None:
            raise StateError(
                f"shard {shard.number} of plan {plan.plan_id[:8]} is not done: score it first"
            )
        done.append(part)
    return done
