"""The canary as a task: beside the task group, or in a DAG of its own."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from airflow.sdk import XComArg, get_current_context, task

from rerank_jobs.airflow.failures import report_failures

__all__ = ["canary_task"]

log = logging.getLogger(__name__)


def canary_task(
    job: str,
    *,
    conn_id: str | None = None,
    task_id: str = "canary",
    on_moved: Literal["fail", "warn"] = "fail",
    tolerance: float | None = None,
) -> XComArg:
    """Add a task that scores the canary with a job's endpoint and model, and compares it.

    It sends one request, a search unit. Where model, provider or a score is another than in the
    reference or last time (``tolerance``, an absolute difference, 0.001 unless given), it fails
    for good, or with ``on_moved="warn"`` succeeds and logs a warning: set before the task group it
    stops a night that would mix scores of two models. ``job`` and ``conn_id`` as in
    ``rerank_task_group``; Jinja is rendered in both. XCom gets the reading in figures and names.

    Raises:
        ValueError: ``on_moved`` is neither.

    """
    if on_moved not in {"fail", "warn"}:
        raise ValueError(f"on_moved must be 'fail' or 'warn', got {on_moved!r}")
    run = _canary.override(task_id=task_id)
    return run(job=job, conn_id=conn_id or "", on_moved=on_moved, tolerance=tolerance)


@task(task_id="canary")
def _canary(job: str, conn_id: str, on_moved: str, tolerance: float | None) -> dict[str, Any]:
    from rerank_jobs.airflow.hook import OpenRouterHook
    from rerank_jobs.canary import check_canary, run_canary
    from rerank_jobs.drift import TOLERANCE
    from rerank_jobs.errors import CanaryMoved
    from rerank_jobs.job_file import load_job

    with report_failures(get_current_context()["task_reschedule_count"]):
        loaded = load_job(Path(job).expanduser())
        if conn_id:
            loaded = OpenRouterHook(conn_id).complete(loaded)
        result = run_canary(loaded, tolerance=TOLERANCE if tolerance is None else tolerance)
        try:
            check_canary(loaded, result)
        except CanaryMoved as error:
            if on_moved == "fail":
                raise
            log.warning("%s", error)
        else:
            log.info("Canary: %s", result.describe())
        return {
            "moved": result.moved,
            "reading": result.number,
            "reference": result.reference,
            "search_units": result.search_units,
            "cost_usd": round(result.cost_usd, 6),
            **{name: list(value) for name, value in asdict(result.reading).items()},
        }
