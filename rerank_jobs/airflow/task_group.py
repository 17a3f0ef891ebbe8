"""The task group: plan, then a mapped task per shard, then publish and report, for any DAG.

Tasks are plain synchronous functions that load our code when they run. XCom carries ids, paths and
counts; what a retry resumes from is the ledger's files, not Airflow's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, TaskGroup, TriggerRule, get_current_context, task

from rerank_jobs.airflow.failures import report_failures
from rerank_jobs.airflow.operators import PublishOperator, list_sent
from rerank_jobs.airflow.partition import find_partition

__all__ = ["rerank_task_group"]


def rerank_task_group(
    job: str,
    *,
    group_id: str = "rerank",
    partition: str | None = None,
    conn_id: str | None = None,
    outlets: Sequence[Asset] = (),
    score_args: dict[str, Any] | None = None,
    parallel: int = 1,
    qrels: str | None = None,
) -> TaskGroup:
    """Add plan, score (one mapped task per shard), publish and report to the current DAG.

    ``job`` is the path of a job file as every worker sees it; Jinja is rendered in it, in
    ``partition``, ``conn_id`` and ``qrels``. Without ``partition`` the key is the run's partition
    key, else its parameter ``partition``, else its logical date, else the whole table. Each of
    ``outlets`` gets the figures of the published generation as the event's extra.

    ``parallel`` scoring tasks of a run are at work at once. Together they keep the job's limit on
    requests and tokens: each paces itself to its part of it, or all to the whole of it where the
    job has an ``endpoint.limit_store``. ``score_args`` go to the scoring tasks (``pool``,
    ``execution_timeout``, …); a ``max_active_tis_per_dagrun`` among them divides nothing.

    ``report`` logs what the run sent, paid and changed. ``qrels`` names a file of judgements, from
    the job file's folder, by which it measures nDCG before and after.

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
        at_once = {"max_active_tis_per_dagrun": parallel}
        scored: Any = (
            _score.override(**{**at_once, **(score_args or {})})
            .partial(**where, parallel=parallel)
            .expand(shard=planned)
        )
        publish = PublishOperator(
            task_id="publish",
            **where,
            plan=planned["plan"],
            scored=scored,
            outlets=list(outlets),
            trigger_rule=TriggerRule.NONE_FAILED,
        )
        published: Any = publish.output
        counted = {"plan": planned["plan"], "published": published, "scored": scored}
        _report(job=job, **counted, qrels=qrels or "")
    return group


@task(task_id="plan")
def _plan(job: str, conn_id: str, partition: str) -> list[dict[str, Any]]:
    from rerank_jobs.airflow import steps

    context = get_current_context()
    with report_failures(context["task_reschedule_count"]):
        shards, figures = steps.plan(job, partition or find_partition(context), conn_id)
    context["ti"].xcom_push("plan", figures)
    return shards


@task(
    task_id="score",
    map_index_template="{{ task.op_kwargs['shard']['partition'] }}"
    " shard {{ task.op_kwargs['shard']['shard'] }}",
)
def _score(job: str, conn_id: str, parallel: int, shard: dict[str, Any]) -> dict[str, Any]:
    from rerank_jobs.airflow import steps
    from rerank_jobs.airflow.metrics import make_counter
    from rerank_jobs.airflow.progress import make_state_sink, tell_progress
    from rerank_jobs.ledger.owners import make_airflow_owner

    context = get_current_context()
    ti: Any = context["ti"]
    owner = make_airflow_owner(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
    sinks = make_counter(_tag(ti)), make_state_sink(context["task_state_store"])
    with report_failures(context["task_reschedule_count"]), tell_progress(*sinks) as watch:
        return steps.score(job, shard, owner, conn_id, parallel=parallel, watch=watch)


@task(task_id="report", trigger_rule=TriggerRule.NONE_FAILED)
def _report(
    job: str,
    plan: dict[str, Any],
    published: dict[str, Any],
    scored: Sequence[dict[str, Any]] | None,
    qrels: str,
) -> dict[str, Any]:
    from rerank_jobs.airflow import steps
    from rerank_jobs.airflow.metrics import record_run

    context = get_current_context()
    sent = list_sent(plan, scored)
    with report_failures(context["task_reschedule_count"]):
        figures = steps.report(job, published, sent, qrels)
    started: Any = context["dag_run"].start_date
    lasted = None if started is None else datetime.now(UTC) - started
    record_run(figures, lasted, _tag(context["ti"]))
    return figures


def _tag(ti: Any) -> dict[str, str]:
    return {"dag_id": ti.dag_id, "task_id": ti.task_id}
