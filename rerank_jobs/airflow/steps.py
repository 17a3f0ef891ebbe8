"""The steps as plain functions over paths, ids and counts: what the tasks do.

Everything that they take and return is small JSON, fit for XCom; no text of a table is in it. With
a ``conn_id`` the Airflow connection of that name completes the job (``OpenRouterHook.complete``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rerank_jobs.airflow.progress import log_progress
from rerank_jobs.config import Job
from rerank_jobs.embedded import identify_scorer
from rerank_jobs.errors import JobError
from rerank_jobs.job import (
    Planned,
    find_plan,
    open_roots,
    plan_partition,
    publish_partition,
    score_partition_shard,
)
from rerank_jobs.job_file import load_job
from rerank_jobs.measuring import measure_generation
from rerank_jobs.model import ScoreTotals
from rerank_jobs.publish.generations import Generation, read_current
from rerank_jobs.report.outcome import (
    describe_outcome,
    list_evaluation,
    list_movement,
    measure_use,
    summarise_ranking,
)
from rerank_jobs.score import Progress
from rerank_jobs.tables.arrival import is_input_there

__all__ = ["load", "look_for_input", "plan", "publish", "report", "score"]

log = logging.getLogger(__name__)

_SENT = ("requests", "search_units", "cost_usd")


def look_for_input(job_file: str, partition: str, ready_file: str = "") -> bool:
    """Say whether a partition's input is there; see ``rerank_jobs.tables.arrival``."""
    job = load(job_file, "")
    there = is_input_there(job, partition, ready_file)
    log.info(
        "Input of partition %s is %s: %s",
        partition,
        "there" if there else "not there yet",
        job.input_location(partition),
    )
    return there


def plan(
    job_file: str, partition: str, conn_id: str = ""
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Plan and freeze a partition; return one item per shard to score, and the plan in figures.

    A partition that is published already has no shards to score and nothing to send.

    Raises:
        JobError, InputError, StateError, BudgetStop, KeyStop: see ``rerank_jobs.job``.

    """
    job = load(job_file, conn_id)
    planned = plan_partition(job, partition)
    numbers = [] if planned.plan is None else [shard.number for shard in planned.plan.shards]
    shards = [
        {"partition": partition, "plan_id": planned.plan_id, "shard": number} for number in numbers
    ]
    promise = planned.promise
    published = planned.current is not None
    figures = {
        "partition": partition,
        "plan_id": planned.plan_id,
        "published": published,
        "shards": len(shards),
        "rows_in": promise.rows_in,
        "rows_rejected": promise.rows_rejected,
        "queries": promise.queries,
        "passages": promise.passages,
        "passages_reused": promise.passages_reused,
        "requests": 0 if published else promise.requests,
        "search_units": 0 if published else promise.search_units,
        "cost_usd": 0.0 if published else promise.cost_usd,
    }
    if planned.current is not None:
        number = planned.current.number
        log.info(
            "Partition %s is %s (generation %d): nothing to send",
            partition,
            "withdrawn" if planned.withdrawn else "published already",
            number,
        )
    else:
        log.info(
            "Plan %s of partition %s: %s rows, %s requests, %s search units, $%.3f, %d shards",
            planned.plan_id[:8],
            partition,
            f"{promise.rows_in:,}",
            f"{promise.requests:,}",
            f"{promise.search_units:,}",
            promise.cost_usd,
            len(shards),
        )
    return shards, figures


def score(
    job_file: str,
    shard: dict[str, Any],
    owner: dict[str, Any],
    conn_id: str = "",
    *,
    parallel: int = 1,
    watch: Callable[[Progress, int], None] | None = None,
) -> dict[str, Any]:
    """Score one shard for ``owner`` and return what this try sent, and what it might have sent.

    A shard that is done, or whose plan is published, sends nothing. With ``parallel`` tasks at
    once each keeps to its part of the job's limit. ``watch`` gets snapshots, ten a second at most,
    and the number of requests that the shard has.

    Raises:
        JobError: the job names another model or URL than the plan was made for.
        Stopped, Interrupted, Busy, Fenced, StateError: see ``rerank_jobs.job``.

    """
    job = load(job_file, conn_id)
    job = job.model_copy(update={"endpoint": job.endpoint.take_part(parallel)})
    number = int(shard["shard"])
    planned = find_plan(job, shard["partition"], shard["plan_id"])
    started = time.time()
    if planned.plan is None:
        log.info("Plan %s is published already: nothing to score", planned.plan_id[:8])
        return _describe_sends(number, ScoreTotals(), started)
    _check_scorer(job, planned)
    label = f"Shard {number} (of {len(planned.plan.shards)})"
    requests = planned.plan.shards[number].requests
    say = log_progress(label, requests)

    def observe(now: Progress) -> None:
        say(now)
        if watch is not None:
            watch(now, requests)

    totals = score_partition_shard(job, planned.plan, number, owner=owner, observe=observe).totals
    log.info(
        "%s is done: this try sent %s requests, %s search units, $%.3f, in %.1f s",
        label,
        f"{totals.requests:,}",
        f"{totals.search_units:,}",
        totals.cost_usd,
        totals.seconds,
    )
    return _describe_sends(number, totals, started)


def _describe_sends(number: int, totals: ScoreTotals, started: float) -> dict[str, Any]:
    return {
        "shard": number,
        **{name: round(getattr(totals, name), 6) for name in _SENT},
        "throttled": totals.throttled,
        "sends_allowed": round(totals.sends_allowed, 1),
        "started_at": round(started, 3),
        "seconds": round(totals.seconds, 3),
    }


def publish(
    job_file: str,
    partition: str,
    plan_id: str,
    scored: Iterable[dict[str, Any]],
    conn_id: str = "",
) -> dict[str, Any]:
    """Publish a scored plan, or find it published, and return its generation in figures.

    ``scored`` is what ``score`` returned: it becomes ``requests``, ``search_units`` and
    ``cost_usd`` of this run. ``paid_…`` is the whole plan's, over all tries.

    Raises:
        JobError: the job names another model or URL than the plan was made for.
        GateFailed, StateError, CommitUnknown: see ``rerank_jobs.job``.

    """
    job = load(job_file, conn_id)
    planned = find_plan(job, partition, plan_id)
    _check_scorer(job, planned)
    generation = publish_partition(job, planned)
    figures = _describe(job, partition, generation)
    sent = list(scored)
    figures |= {name: round(sum(one[name] for one in sent), 6) for name in _SENT}
    log.info(
        "Generation %d of partition %s: %s rows in %s",
        generation.number,
        partition,
        f"{figures['rows']:,}",
        figures["output"],
    )
    return figures


def report(
    job_file: str, published: dict[str, Any], scored: Sequence[dict[str, Any]], qrels: str = ""
) -> dict[str, Any]:
    """Measure what ``publish`` published, log it in a few lines and return it in figures.

    ``qrels`` names a file of judgements, for nDCG before and after. A generation that is not
    current any more is not measured.

    Raises:
        InputError: the judgements cannot be used. The table is published all the same.

    """
    job = load(job_file, "")
    roots = open_roots(job)
    current = read_current(roots.state, published["partition"])
    names = ("partition", "plan_id", "generation", "rows", "rows_rejected")
    figures = {name: published[name] for name in (*names, *_SENT, "paid_requests", "paid_usd")}
    use = measure_use(scored, shared=job.endpoint.limit_store is not None)
    figures |= {
        "throttled": sum(one["throttled"] for one in scored),
        "limit_utilisation": use,
    }
    movement = evaluation = None
    if current is not None and current.number == published["generation"]:
        path = Path(job.resolve(qrels)) if qrels else None
        measured = measure_generation(job, roots, current, path)
        movement, evaluation = measured.movement, measured.evaluation
        figures |= list_movement(movement)
        figures |= {} if evaluation is None else list_evaluation(evaluation)
    log.info("%s", describe_outcome(figures, movement, evaluation))
    return figures


def load(job_file: str, conn_id: str) -> Job:
    """Return the job of a file, completed by the Airflow connection if one is named."""
    job = load_job(Path(job_file).expanduser())
    if not conn_id:
        return job
    from rerank_jobs.airflow.hook import OpenRouterHook

    return OpenRouterHook(conn_id).complete(job)


def _check_scorer(job: Job, planned: Planned) -> None:
    """Make sure that nobody edited the job file or the connection into another scorer's."""
    if planned.plan is not None and identify_scorer(job) != planned.plan.scorer_id:
        raise JobError(
            f"plan {planned.plan_id[:8]} was made for another model, URL or options than the job"
            " file and the connection name now: clear the plan task to plan anew, or change back"
        )


def _describe(job: Job, partition: str, generation: Generation) -> dict[str, Any]:
    spent = generation.document["spent"]
    folder = job.partition_folder(partition)
    return {
        "partition": partition,
        "plan_id": generation.plan_id,
        "generation": generation.number,
        "manifest": f"{open_roots(job).state.location}/{generation.name}",
        "output": f"{job.output_root}/{folder}" if folder else job.output_root,
        "rows": sum(part.rows for part in generation.parts),
        "rows_rejected": sum(part.rows for part in generation.rejected),
        "documents": dict(generation.document["statuses"]),
        **summarise_ranking(generation.document.get("ranking")),
        "paid_requests": spent["requests"],
        "paid_search_units": spent["search_units"],
        "paid_usd": round(spent["cost_usd"], 6),
    }
