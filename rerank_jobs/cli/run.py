"""``run`` and ``plan``: the promise first, progress while it runs, then what was done."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from typing import Any

import orjson
from rich.console import Console

from rerank_jobs.budgets import check_outlook
from rerank_jobs.cli.credit import ask_credit, check_credit, describe_credit
from rerank_jobs.cli.display import RunDisplay, print_promise, print_result
from rerank_jobs.cli.figures import describe_sending
from rerank_jobs.config import Job
from rerank_jobs.job import Planned, RunResult, open_roots, preview_partition, run_partition
from rerank_jobs.job_file import load_job
from rerank_jobs.ledger.loading import Spent
from rerank_jobs.plan.promise import check_budget
from rerank_jobs.publish.generations import Generation

__all__ = ["describe_plan", "describe_result", "plan_job", "run_job"]


def run_job(arguments: argparse.Namespace) -> int:
    """Run a job's partition."""
    job = load_job(arguments.job)
    talk = Console(stderr=True, highlight=False) if arguments.json else Console(highlight=False)
    display = RunDisplay(Console(stderr=True, highlight=False))

    def announce(planned: Planned) -> None:
        print_promise(talk, job, planned)
        check_credit(job, planned)
        display.start(planned.promise)

    with contextlib.closing(display):
        result = run_partition(
            job,
            arguments.partition,
            limit_queries=arguments.limit_queries,
            retry_failed=arguments.retry_failed,
            extra_usd=arguments.extra_usd,
            on_plan=announce,
            observe=display.observe,
        )
    if arguments.json:
        _print_json(describe_result(job, result))
    else:
        print_result(talk, job, result)
    return 0


def plan_job(arguments: argparse.Namespace) -> int:
    """Price a job's partition; the exit code says whether the budget would allow it."""
    job = load_job(arguments.job)
    planned = preview_partition(job, arguments.partition, limit_queries=arguments.limit_queries)
    reply = ask_credit(job, planned)
    account = reply.account if reply is not None else None
    if arguments.json:
        told = None if account is None else dataclasses.asdict(account)
        _print_json({**describe_plan(job, planned), "account": told})
    else:
        print_promise(Console(highlight=False), job, planned)
        if reply is not None:
            print(f"{'Credit':<11}  {describe_credit(reply, planned)}")
    if planned.current is None:
        check_budget(job, planned.promise)
        check_outlook(job, planned.outlook)
    return 0


def describe_plan(job: Job, planned: Planned) -> dict[str, Any]:
    """Return a plan as the JSON object of ``plan --json``; nothing of it is done yet."""
    promise = planned.promise
    if planned.current is None:
        will_send = promise
    else:
        will_send = dataclasses.replace(
            promise, requests=0, search_units=0, tokens=0, cost_usd=0.0, seconds=0.0
        )
    return {
        **_common(planned.plan_id, planned.partition, promise),
        "passages_scored": promise.passages - promise.passages_reused,
        "passages_failed": 0,
        "requests": will_send.requests,
        "search_units": will_send.search_units,
        "tokens": will_send.tokens,
        "cost_usd": will_send.cost_usd,
        "seconds": will_send.seconds,
        "output": str(_output(job, planned.partition)),
        "manifest": _manifest(job, planned.current),
        "published": planned.current is not None,
        "plan": {
            **promise.to_json(),
            **_describe_paid(planned.paid or Spent()),
            **planned.outlook.to_json(),
        },
    }


def describe_result(job: Job, result: RunResult) -> dict[str, Any]:
    """Return a run as the JSON object of ``run --json``.

    ``requests``, ``search_units`` and ``cost_usd`` are this run's; passages are the whole plan's.
    """
    promise, totals, spent = result.promise, result.totals, result.spent
    generation = result.generation
    state = open_roots(job).state.location
    sample = f"{state}/{result.sample[0].name}" if result.sample else None
    return {
        **_common(result.plan_id, result.partition, promise),
        "passages_scored": promise.passages - promise.passages_reused - spent.passages_failed,
        "passages_failed": spent.passages_failed,
        "requests": totals.requests,
        "search_units": totals.search_units,
        "cost_usd": round(totals.cost_usd, 6),
        "seconds": round(result.seconds, 3),
        "output": str(_output(job, result.partition)) if generation else sample,
        "manifest": _manifest(job, generation),
        "generation": generation.number if generation else None,
        "statuses": result.statuses,
        "ranking": generation.document.get("ranking") if generation else None,
        "withdrawn": generation is not None and generation.plan_id != result.plan_id,
        "segments_ignored": spent.segments_ignored,
        "this_run": describe_sending(totals),
        "plan": {
            **promise.to_json(),
            **_describe_paid(spent),
        },
    }


def _describe_paid(spent: Spent) -> dict[str, Any]:
    return {
        "paid_requests": spent.requests,
        "paid_search_units": spent.search_units,
        "paid_usd": round(spent.cost_usd, 6),
    }


def _common(plan_id: str, partition: str, promise: Any) -> dict[str, Any]:
    names = ("rows_in", "rows_out", "rows_rejected", "candidates_in", "candidates_out")
    more = (
        "candidates_rejected",
        "candidates_cut",
        "groups",
        "queries",
        "pairs",
        "passages",
        "passages_reused",
    )
    return {
        "plan_id": plan_id,
        "partition": partition,
        **{name: getattr(promise, name) for name in (*names, *more)},
    }


def _output(job: Job, partition: str) -> str:
    folder = job.partition_folder(partition)
    return f"{job.output_root}/{folder}" if folder else job.output_root


def _manifest(job: Job, generation: Generation | None) -> str | None:
    return f"{job.state_root}/{generation.name}" if generation else None


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()
