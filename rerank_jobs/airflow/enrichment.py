"""The task that summarises a search log once the task group has published it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, TaskGroup, get_current_context, task

from rerank_jobs.airflow.failures import report_failures

__all__ = ["summarize_searches"]

log = logging.getLogger(__name__)


def summarize_searches(job: str, group: TaskGroup, *, outlets: Sequence[Asset] = ()) -> Any:
    """Add a task ``summarize`` behind a ``rerank_task_group`` and return what it gives.

    It writes the summaries of what the group's ``publish`` published, by search and as one row for
    the partition, sends nothing, and changes nothing where they stand already
    (``rerank_jobs.enriching``). ``job`` is the group's job file; Jinja is rendered. The figures of
    the partition become the extra of the event of each of ``outlets``.
    """
    publish: Any = group.get_child_by_label("publish")
    return _summarize.override(outlets=list(outlets))(job=job, published=publish.output)


@task(task_id="summarize")
def _summarize(job: str, published: dict[str, Any]) -> dict[str, Any]:
    from rerank_jobs.ledger.owners import make_airflow_owner

    context = get_current_context()
    ti: Any = context["ti"]
    owner = make_airflow_owner(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
    with report_failures(context["task_reschedule_count"]):
        figures = _enrich(job, published["partition"], owner)
    for outlet in context["task"].outlets:
        context["outlet_events"][outlet].extra = figures
    return figures


def _enrich(job_file: str, partition: str, owner: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the contract ``day_summary`` as JSON, and where both tables are."""
    from rerank_jobs.enriching import enrich_partition
    from rerank_jobs.job_file import load_job

    found = enrich_partition(load_job(Path(job_file).expanduser()), partition, owner=owner)
    day = found.day
    log.info(
        "Summaries of partition %s (generation %d) %s: %s searches, %s with clicks, mean reciprocal"
        " rank of the click %s as shown, %s reranked",
        partition,
        found.generation,
        "written" if found.changed else "stand already",
        f"{day['searches']:,}",
        f"{day['searches_with_clicks']:,}",
        day["click_mrr_before"],
        day["click_mrr_after"],
    )
    return {
        **day,
        "published_at": day["published_at"].isoformat(),
        "searches_path": found.searches_path,
        "day_path": found.day_path,
    }
