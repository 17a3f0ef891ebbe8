"""Planning a partition: what is frozen or published already, else one pass from table to plan."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rerank_jobs.assumed import add_assumed, assume_draft, assume_plan
from rerank_jobs.budgets import Outlook, check_outlook, count_rest, foresee
from rerank_jobs.config import ALL, Job, check_partition_key, read_api_key
from rerank_jobs.embedded import identify_scorer
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.library import Lookup, find_scores
from rerank_jobs.ledger.loading import Spent
from rerank_jobs.plan.build import build_plan, count_shards
from rerank_jobs.plan.counting import ESTIMATE
from rerank_jobs.plan.frozen import Plan, freeze, identify, plan_name, read_plan
from rerank_jobs.plan.promise import Promise, check_budget
from rerank_jobs.plan.tokenizer import make_counter, read_tokenizer
from rerank_jobs.publish.generations import Generation, read_generations
from rerank_jobs.publish.publisher import Roots, find_published
from rerank_jobs.score import DIALECTS, body_fields, ranks_listwise, read_access
from rerank_jobs.storage import Store, open_store, scratch_folder
from rerank_jobs.tables.sources import open_input
from rerank_jobs.upkeep import (
    add_up_spent,
    check_state,
    compact_unfinished,
    is_up_to_date,
    prepare_state,
)

__all__ = [
    "Planned",
    "find_plan",
    "find_rest",
    "open_roots",
    "plan_partition",
    "preview_partition",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """A partition's plan: frozen (``plan``), or published already (``current``).

    A plan that going back to an earlier generation took back is *withdrawn*: ``current`` is the
    generation that withdrew it, and nothing is sent for it.
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

    @property
    def withdrawn(self) -> bool:
        """Say whether the current generation withdrew this plan."""
        return self.current is not None and self.current.plan_id != self.plan_id


def find_rest(job: Job, planned: Planned) -> float:
    """Return the most (USD) that a partition's plan may still cost, with retries.

    Nothing if it is published; of a plan that is frozen, the allowances less what is paid.
    """
    if planned.current is not None:
        return 0.0
    state, identity = open_store(job.state_root), planned.plan_id
    return count_rest(state, planned.partition, identity, planned.promise, planned.plan)


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
    job: Job,
    partition: str = ALL,
    *,
    limit_queries: int | None = None,
    assumed: Path | None = None,
) -> Planned:
    """Price a partition without freezing anything: what ``rerank-jobs plan`` prints.

    ``assumed`` is a folder of pairs that count as known already (``rerank_jobs.assumed``); those
    that this partition would send are added to it.
    """
    return _plan(job, partition, limit_queries, frozen=False, assumed=assumed)


def _plan(
    job: Job,
    partition: str,
    limit_queries: int | None,
    *,
    frozen: bool,
    assumed: Path | None = None,
) -> Planned:
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
    if check_state(state) is not None and frozen:
        prepare_state(state)  # a root of an earlier format is upgraded before it is written to
    published = _find_published(roots, partition, identity)
    if published is not None:
        return published
    plan = _read_frozen(state, partition, identity)
    if plan is not None:
        if not frozen and assumed is not None:
            assume_plan(assumed, state, plan)
        return _resume(job, state, plan, frozen=frozen)
    if frozen:
        read_api_key(job.endpoint)
        read_access(job.endpoint, job.resolve)
    salt = prepare_state(state, upgrade=frozen)
    _compact(state, partition)
    cutoff = datetime.now(UTC) - timedelta(days=job.reuse.max_age_days)
    library = Lookup() if job.reuse.mode == "off" else find_scores(state, scorer, cutoff)
    with scratch_folder(state.location) as folder:
        known = library.sql if assumed is None else add_assumed(library.sql, assumed)
        draft = build_plan(
            job,
            table,
            salt=salt,
            library=known,
            folder=folder,
            limit_queries=limit_queries,
            max_passages=DIALECTS[job.endpoint.dialect].max_passages,
            listwise=ranks_listwise(job.endpoint),
            counter=make_counter(tokenizer) if tokenizer else ESTIMATE,
        )
        outlook = foresee(job, state, partition, identity, draft, now=time.time())
        if not frozen:
            if assumed is not None:
                assume_draft(assumed, draft)
            return Planned(partition, identity, draft.promise, None, None, outlook=outlook)
        check_budget(job, draft.promise)
        check_outlook(job, outlook)
        plan = freeze(
            state, job, table, partition, scorer, identity, draft, limit_queries, library.files
        )
    return Planned(partition, identity, plan.promise, plan, None, outlook=outlook)


def _resume(job: Job, state: Store, plan: Plan, *, frozen: bool) -> Planned:
    """Return a plan that is frozen already, with what it has paid and where the budgets stand."""
    if frozen:  # what other plans paid for since this one was frozen is not paid again
        _compact(state, plan.partition, but=plan.plan_id)
    outlook = foresee(job, state, plan.partition, plan.plan_id, plan, now=time.time())
    if frozen:
        check_budget(job, plan.promise)
        check_outlook(job, outlook)
    paid = add_up_spent(state, plan)
    return Planned(plan.partition, plan.plan_id, plan.promise, plan, None, paid, outlook)


def _compact(state: Store, partition: str, *, but: str | None = None) -> None:
    if is_up_to_date(state):
        compact_unfinished(state, partition, read_generations(state, partition), but=but)


def _read_frozen(state: Store, partition: str, identity: str) -> Plan | None:
    """Return the frozen plan, ``None`` if there is none; a damaged one is removed and made anew."""
    try:
        return read_plan(state, partition, identity)
    except FileNotFoundError:
        return None
    except StateError:
        state.delete(plan_name(partition, identity))
        return None


def _find_published(roots: Roots, partition: str, identity: str) -> Planned | None:
    """Return a plan that is published, or was and is withdrawn, with what it promised."""
    current = find_published(roots, partition, identity)
    if current is None:
        return None
    its = current
    if current.plan_id != identity:
        ours = [g for g in read_generations(roots.state, partition) if g.plan_id == identity]
        its = ours[-1] if ours else current
    return Planned(partition, identity, Promise(**its.document["promise"]), None, current)


def find_plan(job: Job, partition: str, plan_id: str) -> Planned:
    """Return a plan by its id, frozen or published: how a task finds what an earlier task planned.

    Raises:
        StateError: there is no such plan (any more): plan the partition again.

    """
    roots = open_roots(job)
    state = roots.state
    published = _find_published(roots, partition, plan_id)
    if published is not None:
        return published
    try:
        plan = read_plan(state, partition, plan_id)
    except FileNotFoundError:
        raise StateError(
            f"{state.location}: partition {partition} has no plan {plan_id[:8]}: plan it again"
        ) from None
    return Planned(partition, plan_id, plan.promise, plan, None)
