"""The task group: plan, then a mapped task per shard, then publish, for any DAG.

Tasks are plain synchronous functions that load our code when they run. XCom carries ids, paths and
counts; what a retry resumes from is the ledger's files, not Airflow's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Asset, TaskGroup, TriggerRule, get_current_context, task

from rerank_jobs.airflow.failures import report_failures
from rerank_jobs.airflow.operators import PublishOperator

__all__ = ["rerank_task_group"]

UNPARTITIONED = "_all"


ONE_AT_A_TIME = {"max_active_tis_per_dagrun": 1}
"""Each scoring task paces itself to the whole limit of its job: two at once would double it."""


def rerank_task_group(
    job: str,
    *,
    group_id: str = "rerank",
    partition: str | None = None,
    conn_id: str | None = None,
    outlets: Sequence[Asset] = (),
    score_args: dict[str, Any] | None = None,
) -> TaskGroup:
    """Add plan, score (one mapped task per shard) and publish to the current DAG.

    ``job`` is the path of a job file as every worker sees it; Jinja is rendered in it, in
    ``partition`` and in ``conn_id``. Without ``partition`` the key is the run's partition key, else
    its parameter ``partition``, else its logical date, else the whole table. ``score_args`` go to
    the scoring tasks (``pool``, ``execution_timeout``, …); by default one runs at a time, because
    each paces itself to the whole limit of the job. Each of ``outlets`` gets the figures of the
    published generation as the event's extra.

    ``conn_id`` names an Airflow connection of type ``openrouter`` that holds the API key, and what
    the job file leaves out of URL, model, requests per minute and attribution. Without it, or
    where it renders empty, the key is in the variable that ``endpoint.api_key_env`` names.

    A partition whose input and job are as they were when it was published sends nothing: its
    scoring is skipped and ``publish`` returns the generation that is current. A retried or cleared
    task goes on from what is sealed. Errors that a retry cannot mend fail at once; a known wait
    reschedules the task, which holds no slot and spends no try.
    """
    where = {"job": job, "conn_id": conn_id or ""}
    with TaskGroup(group_id) as group:
        planned: Any = _plan(**where, partition=partition or "")
        scored: Any = (
            _score.override(**{**ONE_AT_A_TIME, **(score_args or {})})
            .partial(**where)
            .expand(shard=planned)
        )
        PublishOperator(
            task_id="publish",
            **where,
            plan=planned["plan"],
            scored=scored,
            outlets=list(outlets),
            trigger_rule=TriggerRule.NONE_FAILED,
        )
    return group


@task(task_id="plan")
def _plan(job: str, conn_id: str, partition: str) -> list[dict[str, Any]]:
    from rerank_jobs.airflow import steps

    context = get_current_context()
    with report_failures(context["task_reschedule_count"]):
        shards, figures = steps.plan(job, partition or _find_partition(context), conn_id)
    context["ti"].xcom_push("plan", figures)
    return shards


@task(
    task_id="score",
    map_index_template="{{ task.op_kwargs['shard']['partition'] }}"
    " shard {{ task.op_kwargs['shard']['shard'] }}",
)
def _score(job: str, conn_id: str, shard: dict[str, Any]) -> dict[str, Any]:
    from rerank_jobs.airflow import steps
    from rerank_jobs.ledger.owners import make_airflow_owner

    context = get_current_context()
    ti: Any = context["ti"]
    owner = make_airflow_owner(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
    with report_failures(context["task_reschedule_count"]):
        return steps.score(job, shard, owner, conn_id)


def _find_partition(context: Any) -> str:
    run, params = context["dag_run"], context["params"]
    key = run.partition_key or params.get("partition") or context.get("ds")
    return str(key or UNPARTITIONED)
