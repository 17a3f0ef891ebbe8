"""Waiting for a partition's input under Airflow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.dags.conftest import HOME, Table, tasks_of

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

pytestmark = pytest.mark.dags

AT = datetime(2026, 11, 13, tzinfo=UTC)

WAITING = """
from airflow.sdk import DAG, Param

from rerank_jobs.airflow import PartitionSensor

with DAG("waits_for_input", schedule=None, params={"job": Param("", type="string")}):
    PartitionSensor(
        task_id="wait", job="{{ params.job }}", ready_file="_SUCCESS", poke_interval=1, timeout=120,
        retries=3,
    )
"""


@pytest.fixture
def waiting(dag_bag: DagBag) -> Iterator[DAG]:
    """Return a DAG that waits for the day's input and its marker, looking every second."""
    from airflow.dag_processing.dagbag import DagBag as Bag

    assert dag_bag.dags
    file = HOME / "dags" / "waits_for_input.py"
    file.write_text(WAITING, encoding="utf-8")
    yield Bag(dag_folder=str(file)).dags["waits_for_input"]
    file.unlink()


def run(dag: DAG, job_file: Path) -> DagRun:
    done: DagRun = dag.test(run_after=AT, logical_date=AT, run_conf={"job": str(job_file)})
    return done


def test_it_is_rescheduled_until_the_marker_is_there(
    make_table: Callable[..., Table], waiting: DAG, airflow_log: Callable[[], str]
) -> None:
    """It looks again without a slot and in one try, and succeeds once the writer is done."""
    table = make_table("2026-11-13")
    marker = table.folder / "in" / "ds=2026-11-13" / "_SUCCESS"
    writer = threading.Timer(2.5, marker.touch)
    writer.start()

    done = run(waiting, table.job_file)

    log = airflow_log()
    assert tasks_of(done) == {("wait", -1): ("success", 1)}
    assert "Input of partition 2026-11-13 is not there yet: " in log
    assert "Input of partition 2026-11-13 is there: " in log


@pytest.mark.parametrize("job", [{"input": {"path": "in"}}, None])
def test_a_job_that_cannot_be_read_is_not_waited_for(
    make_table: Callable[..., Table],
    waiting: DAG,
    airflow_log: Callable[[], str],
    job: dict[str, Any] | None,
) -> None:
    """A broken or missing job file fails the sensor at its first look and first try."""
    table = make_table("2026-11-13", job=job)
    if job is None:
        table.job_file.unlink()

    done = run(waiting, table.job_file)

    assert tasks_of(done) == {("wait", -1): ("failed", 1)}
    assert "AirflowFailException: " in airflow_log()
