"""The backfill DAGs by themselves: their shape, and a range that has nothing left to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from rerank_jobs.airflow.backfill_steps import check_summary
from rerank_jobs.errors import InputError
from rerank_jobs.job import run_partition
from rerank_jobs.job_file import load_job
from tests.dags.conftest import Table, tasks_of

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags

DAY = "2026-11-22"


def test_a_backfill_prices_asks_queues_waits_and_sums_up(dag_bag: DagBag) -> None:
    """Only ``start`` is skipped by a refusal, and the summary comes after all of them."""
    dag = dag_bag.dags["backfill_rerank"]
    assert {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} == {
        "price": {"needs_approval", "start"},
        "needs_approval": {"approve"},
        "approve": {"start"},
        "start": {"wait"},
        "wait": {"summary"},
        "summary": set(),
    }
    assert dag.get_task("summary").trigger_rule == "none_failed"


def test_partitions_run_one_at_a_time_behind_their_admission(dag_bag: DagBag) -> None:
    """The DAG of a partition has one run at a time, and the task group comes after ``admit``."""
    dag = dag_bag.dags["backfill_rerank_partition"]
    assert dag.max_active_runs == 1
    assert dag.get_task("admit").downstream_task_ids == {"rerank.plan"}
    assert {"rerank.plan", "rerank.score", "rerank.publish"} < set(dag.task_ids)


def test_a_published_range_queues_nothing_and_ends_well(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """Days without a table are named; no approval is asked for and nothing is spent."""
    table = make_table(DAY)
    run_partition(load_job(table.job_file), DAY)
    conf = {"job": str(table.job_file), "from": "2026-11-21", "to": DAY, "approve_above_usd": 0}
    run = run_dag("backfill_rerank", **conf)

    states = {task: state for (task, _), (state, _) in tasks_of(run).items()}
    instance = run.get_task_instance("summary")
    assert instance is not None
    summary: dict[str, Any] = instance.xcom_pull(task_ids="summary")
    assert (states["approve"], states["start"], states["wait"]) == ("skipped",) * 3
    assert (summary["published_before"], summary["missing"]) == ([DAY], ["2026-11-21"])
    assert (summary["published"], summary["spent_usd"]) == ([], 0.0)


def test_a_range_without_days_fails_at_once(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """The task that prices it is not retried."""
    run = run_dag("backfill_rerank", job=str(make_table(DAY).job_file))
    assert tasks_of(run)["price", -1] == ("failed", 1)


def test_a_failed_or_unusable_partition_fails_the_backfill_at_its_end() -> None:
    """Both are named; what budget alone left is no failure."""
    check_summary({"failed": [], "unusable": [], "left": {"2026-11-20": 1.0}})
    with pytest.raises(InputError, match=r"2 of the partitions failed \(a, b\)"):
        check_summary({"failed": ["a"], "unusable": ["b"]})
