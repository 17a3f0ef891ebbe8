"""The task that summarises a search log once the task group has published it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Asset, TaskGroup, get_current_context, task

from rerank_jobs.airflow.failures import report_failures

__all__ = ["summarize_searches"]


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
    from rerank_jobs.airflow import steps
    from rerank_jobs.ledger.owners import make_airflow_owner

    context = get_current_context()
    ti: Any = context["ti"]
    owner = make_airflow_owner(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
    with report_failures(context["task_reschedule_count"]):
        figures = steps.summarize(job, published["partition"], owner)
    for outlet in context["task"].outlets:
        context["outlet_events"][outlet].extra = figures
    return figures
