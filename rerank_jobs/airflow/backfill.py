"""The tasks of a backfill: price a range, ask, queue one run a partition, wait, sum up.

Each partition is a run of a DAG of its own that runs one at a time (``max_active_runs=1``): the
scheduler keeps the others queued, which holds no slot, and starts them in the order of their
``run_after``, newest partition first. The first task of each run admits it, or not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset, DagRunState, TriggerRule, get_current_context, task
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    DagRunTriggerException,
)

from rerank_jobs.airflow.failures import report_failures
from rerank_jobs.airflow.task_group import rerank_task_group

__all__ = ["add_partition_tasks", "add_range_tasks"]

FIRST_LOOK_SECONDS = 5.0
SELDOMEST_LOOK_SECONDS = 120.0

_BODY = "{{ ti.xcom_pull(task_ids='price', key='table') }}"
_SUBJECT = (
    "Backfill {{ run_id }} may spend ${{ '%.2f' % ti.xcom_pull(task_ids='price', key='price')"
    "['may_spend_usd'] }}"
)


def add_range_tasks(partition_dag: str) -> None:
    """Add price, approve, start, wait and summary to the current DAG.

    The DAG's parameters are ``job``, ``conn_id``, ``from``, ``to``, ``key_format``, ``partitions``,
    ``budget_usd`` and ``approve_above_usd``. ``partition_dag`` is the id of the DAG that
    ``add_partition_tasks`` was called for. Nothing is sent before ``start``, and nothing at all if
    the approval is refused.
    """
    runs: Any = _price()
    approve = ApprovalOperator(task_id="approve", subject=_SUBJECT, body=_BODY)
    start: Any = _start.partial(partition_dag=partition_dag).expand(run=runs)
    wait: Any = _wait(partition_dag)
    runs >> _needs_approval() >> approve >> start >> wait >> _sum_up(partition_dag)


def add_partition_tasks(
    outlets: Sequence[Asset], score_args: dict[str, Any], parallel: int = 1
) -> None:
    """Add to the current DAG what a partition's run does: admit, then the rerank task group.

    ``score_args`` and ``parallel`` are those of ``rerank_task_group``. The DAG's parameters are
    ``job``, ``conn_id``, ``partition`` and ``backfill``, which ``start`` fills. If the
    partition is not admitted, the rest is skipped and the run succeeds.
    """
    group = rerank_task_group(
        "{{ params.job }}",
        partition="{{ params.partition }}",
        conn_id="{{ params.conn_id }}",
        outlets=outlets,
        score_args=score_args,
        parallel=parallel,
    )
    admitted: Any = _admit()
    admitted >> group


@task(task_id="price")
def _price() -> list[dict[str, Any]]:
    from rerank_jobs.airflow import backfill_steps

    context = get_current_context()
    params, run, ti = context["params"], context["dag_run"], context["ti"]
    with report_failures(context["task_reschedule_count"]):
        price = backfill_steps.price(dict(params))
    ti.xcom_push("table", price.pop("table"))
    ti.xcom_push("price", price)
    began: datetime = run.run_after
    backfill = {
        "dag": ti.dag_id,
        "run": ti.run_id,
        "since": began.timestamp(),
        "budget_usd": price["budget_usd"],
    }
    return [
        {
            "run_id": _name_run(ti.run_id, number, partition),
            "run_after": (began + timedelta(milliseconds=number)).isoformat(),
            "conf": {
                "job": params["job"],
                "conn_id": params["conn_id"],
                "partition": partition,
                "backfill": backfill | {"number": number},
            },
        }
        for number, partition in enumerate(price["open"])
    ]


@task.short_circuit(task_id="needs_approval", ignore_downstream_trigger_rules=False)
def _needs_approval() -> bool:
    """Skip ``approve``, and it alone, where the run may spend no more than the threshold."""
    context = get_current_context()
    price = context["ti"].xcom_pull(task_ids="price", key="price")
    threshold = float(context["params"]["approve_above_usd"])
    return bool(price["may_spend_usd"] > threshold)


@task(
    task_id="start",
    trigger_rule=TriggerRule.NONE_FAILED,
    max_active_tis_per_dagrun=1,  # the newest is there first
    map_index_template="{{ task.op_kwargs['run']['conf']['partition'] }}",
)
def _start(partition_dag: str, run: dict[str, Any]) -> None:
    """Queue a partition's run, as ``TriggerDagRunOperator`` does: importing that takes 2 s."""
    ti: Any = get_current_context()["ti"]
    if ti.get_dag(partition_dag).is_paused:
        raise AirflowFailException(
            f"the DAG {partition_dag} is paused: unpause it, clear this task"
        )
    raise DagRunTriggerException(
        trigger_dag_id=partition_dag,
        dag_run_id=run["run_id"],
        run_after=datetime.fromisoformat(run["run_after"]),
        conf=run["conf"],
        reset_dag_run=True,  # cleared with this run, it goes on: what is paid stays paid
        skip_when_already_exists=False,
        wait_for_completion=False,
        allowed_states=[],
        failed_states=[],
        poke_interval=0,
        deferrable=False,
    )


@task(task_id="wait")
def _wait(partition_dag: str) -> None:
    """End when all partitions' runs have; look seldomer and seldomer, without a slot in between."""
    context = get_current_context()
    ti: Any = context["ti"]
    runs = [run["run_id"] for run in ti.xcom_pull(task_ids="price")]
    ended = ti.get_dr_count(partition_dag, run_ids=runs, states=["success", "failed"])
    if ended < len(runs):
        looks = min(int(context["task_reschedule_count"]), 10)
        seconds = min(FIRST_LOOK_SECONDS * 2**looks, SELDOMEST_LOOK_SECONDS)
        raise AirflowRescheduleException(  # type: ignore[no-untyped-call]
            datetime.now(UTC) + timedelta(seconds=seconds)
        )


@task(task_id="summary", trigger_rule=TriggerRule.NONE_FAILED)
def _sum_up(partition_dag: str) -> dict[str, Any]:
    from rerank_jobs.airflow import backfill_steps

    context = get_current_context()
    ti: Any = context["ti"]
    runs = ti.xcom_pull(task_ids="price")
    # A refusal leaves no XCom of ``approve``; it alone comes here without a run being queued.
    queued = ti.get_dr_count(partition_dag, run_ids=[run["run_id"] for run in runs])
    rejected = bool(runs) and queued == 0
    outcomes = []
    for run in [] if rejected else runs:
        run_id = run["run_id"]
        state = _read_state(ti, partition_dag, run_id)
        admission = _read_admission(ti, partition_dag, run_id)
        outcomes.append((run["conf"]["partition"], state, admission))
    price = ti.xcom_pull(task_ids="price", key="price")
    since = context["dag_run"].run_after.timestamp()
    with report_failures(context["task_reschedule_count"]):
        summary = backfill_steps.sum_up(
            dict(context["params"]), price, outcomes, since, rejected=rejected
        )
        ti.xcom_push("summary", summary)
        backfill_steps.check_summary(summary)
    return summary


@task.short_circuit(task_id="admit")
def _admit() -> bool:
    from rerank_jobs.airflow import backfill_steps

    context = get_current_context()
    ti: Any = context["ti"]
    params = context["params"]
    backfill = params["backfill"]
    refusal = _find_refusal(ti, backfill)
    partitions = ti.xcom_pull(
        dag_id=backfill["dag"], run_id=backfill["run"], task_ids="price", key="price"
    )["open"]
    with report_failures(context["task_reschedule_count"]):
        admission = backfill_steps.admit(dict(params), partitions, refusal)
    ti.xcom_push("admission", admission)
    return bool(admission["admitted"])


def _find_refusal(ti: Any, backfill: dict[str, Any]) -> str:
    """Say why a partition is not even looked at: the backfill was ended, or stopped before it.

    A run that had begun already, and was cleared, goes on.
    """
    if ti.xcom_pull(task_ids="rerank.plan", key="plan") is not None:
        return ""
    if _read_state(ti, backfill["dag"], backfill["run"]) in ("success", "failed"):
        return "the backfill has ended"
    number = int(backfill["number"])
    if number == 0:
        return ""
    runs = ti.xcom_pull(dag_id=backfill["dag"], run_id=backfill["run"], task_ids="price")
    before = _read_admission(ti, ti.dag_id, runs[number - 1]["run_id"])
    return "" if before is None or before["admitted"] else "a newer partition did not fit"


def _read_state(ti: Any, dag: str, run_id: str) -> str:
    return str(DagRunState(ti.get_dagrun_state(dag, run_id)).value)


def _read_admission(ti: Any, dag: str, run_id: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = ti.xcom_pull(
        dag_id=dag, run_id=run_id, task_ids="admit", key="admission"
    )
    return found


def _name_run(run_id: str, number: int, partition: str) -> str:
    """Return a run id of Airflow's alphabet; the number keeps it apart from others like it."""
    readable = re.sub(r"[^A-Za-z0-9_.~:+-]", "-", partition)[:60]
    return f"{run_id[:150]}__{number:04d}__{readable}"
