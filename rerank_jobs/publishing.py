"""Publishing a partition: a plan whose shards are all done becomes the next generation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rerank_jobs.config import Job, check_partition_key
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.parts import drop_spoiled, open_work, read_done
from rerank_jobs.plan.frozen import Plan, read_plan, run_folder
from rerank_jobs.planning import Planned, open_roots
from rerank_jobs.publish.generations import Generation, Part, read_current, read_generations
from rerank_jobs.publish.leftovers import find_leftovers, publish_folder, tidy
from rerank_jobs.publish.publisher import (
    PublishOrder,
    Roots,
    ShardPart,
    find_published,
    publish_plan,
    restore_generation,
)
from rerank_jobs.publish.retention import find_damaged, mend
from rerank_jobs.storage import Store
from rerank_jobs.upkeep import add_up_spent, check_state, prepare_state, retire_plan

__all__ = [
    "Published",
    "get_frozen",
    "publish_newest",
    "publish_partition",
    "read_all_done",
    "restore_partition",
]


@dataclass(frozen=True, slots=True)
class Published:
    """A partition's current generation, and which of its files were put back."""

    generation: Generation
    mended: tuple[str, ...] = ()


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
    owner, keep = owner or make_process_owner(), job.publish.keep_generations
    current = planned.current or find_published(roots, planned.partition, planned.plan_id)
    if current is not None:
        _retire(roots.state, planned, current, keep)
        _look_after(roots, current, keep, owner)
        return current
    plan = get_frozen(planned)
    done = read_all_done(roots.state, plan)
    rejected = None
    if plan.rejected is not None:
        with drop_spoiled(roots.state, plan):
            open_work(roots.state, plan.rejected)
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
    with acquire(roots.state, publish_folder(plan.partition), owner) as claim:
        generation = publish_plan(job, roots, order, check=claim.check)
    retire_plan(roots.state, plan.partition, plan.plan_id, plan.scorer_id, keep)
    return generation


def _retire(state: Store, planned: Planned, current: Generation, keep: int) -> None:
    """Clear up after a plan that is published, or was and is withdrawn."""
    partition, identity = planned.partition, planned.plan_id
    ours = current.plan_id == identity
    generations = [current] if ours else read_generations(state, partition)
    for one in reversed(generations):
        if one.plan_id == identity:
            scorer = str(one.document["scorer_id"])
            retire_plan(state, partition, identity, scorer, keep)
            return


def _look_after(roots: Roots, current: Generation, keep: int, owner: dict[str, Any]) -> None:
    """Put back what is missing of the current generation, and remove what nothing needs."""
    partition = str(current.document["partition"])
    if not find_damaged(roots, current) and not find_leftovers(roots, partition, keep):
        return
    with acquire(roots.state, publish_folder(partition), owner):
        mend(roots, current)
        tidy(roots, partition, keep)


def publish_newest(job: Job, partition: str, *, owner: dict[str, Any] | None = None) -> Published:
    """Publish the newest plan whose shards are all done; without one, check the current table.

    Plans of samples, and those that are older than the current generation, are left out. Every
    file of a current generation is read; what is missing or damaged is put back from state.

    Raises:
        StateError: nothing is published and no plan is done; or a file cannot be put back.
        GateFailed: a gate forbids it.
        Busy, Fenced: another owner publishes the partition.

    """
    check_partition_key(partition)
    roots, owner = open_roots(job), owner or make_process_owner()
    if check_state(roots.state) is not None:
        prepare_state(roots.state)
    current = read_current(roots.state, partition)
    waiting = _list_waiting(roots.state, partition, current)
    for plan in waiting:
        if _count_done(roots.state, plan) == len(plan.shards):
            planned = Planned(partition, plan.plan_id, plan.promise, plan, None)
            return Published(publish_partition(job, planned, owner=owner))
    if waiting:
        done, shards = _count_done(roots.state, waiting[0]), len(waiting[0].shards)
        raise StateError(
            f"{roots.state.location}: plan {waiting[0].plan_id[:8]} of partition {partition} has"
            f" {done:,} of {shards:,} shards done: rerank-jobs run goes on with it and publishes it"
        )
    if current is None:
        raise StateError(
            f"{roots.state.location}: partition {partition} has no plan to publish: rerank-jobs run"
            " plans, scores and publishes it"
        )
    with acquire(roots.state, publish_folder(partition), owner):
        mended = mend(roots, current, deep=True)
        tidy(roots, partition, job.publish.keep_generations)
    return Published(current, tuple(mended))


def _list_waiting(state: Store, partition: str, current: Generation | None) -> list[Plan]:
    """Return frozen plans of the whole table, newest first, without those of the past."""
    plans = []
    for entry in state.entries(f"{partition}/plan"):
        identity = entry.name.rpartition("/")[2].removesuffix(".json")
        plan = read_plan(state, partition, identity)
        if plan.whole and not _is_past(plan, current):
            plans.append(plan)
    return sorted(plans, key=lambda plan: (plan.created_at, plan.plan_id), reverse=True)


def _is_past(plan: Plan, current: Generation | None) -> bool:
    if current is None:
        return False
    if plan.plan_id in (current.plan_id, *current.withdrawn):
        return True
    published = datetime.fromisoformat(current.document["created_at"])
    return datetime.fromisoformat(plan.created_at) < published


def _count_done(state: Store, plan: Plan) -> int:
    folders = [run_folder(plan.partition, plan.plan_id, shard.number) for shard in plan.shards]
    return sum(read_done(state, folder) is not None for folder in folders)


def restore_partition(
    job: Job, partition: str, number: int, *, owner: dict[str, Any] | None = None
) -> Generation:
    """Go back to a retained generation of a partition: it is published again as the next one.

    Raises:
        StateError: it is not retained, or damaged; the message lists those that are.
        Busy, Fenced: another owner publishes the partition.
        CommitUnknown: nobody knows whether it is published; run again.

    """
    check_partition_key(partition)
    roots, owner = open_roots(job), owner or make_process_owner()
    if check_state(roots.state) is not None:
        prepare_state(roots.state)
    with acquire(roots.state, publish_folder(partition), owner) as claim:
        return restore_generation(job, roots, partition, number, check=claim.check)


def get_frozen(planned: Planned) -> Plan:
    """Return the frozen plan; raises ``StateError`` where there is none."""
    if planned.plan is None:
        raise StateError(f"plan {planned.plan_id[:8]} is not frozen")
    return planned.plan


def read_all_done(state: Store, plan: Plan) -> list[ShardPart]:
    """Return all finished shards of a plan; raises ``StateError`` if one is not done."""
    done = []
    for shard in plan.shards:
        part = read_done(state, run_folder(plan.partition, plan.plan_id, shard.number))
        if part is None:
            raise StateError(
                f"shard {shard.number} of plan {plan.plan_id[:8]} is not done: score it first"
            )
        done.append(part)
    return done
