"""A wait of known length: the task is rescheduled, without a slot, and keeps its try."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowRescheduleException

from rerank_jobs.airflow.failures import MOST_RESCHEDULES, find_wait, report_failures
from rerank_jobs.errors import Busy, EndpointStop, Interrupted, QuotaStop, RerankJobsError
from rerank_jobs.job import open_roots, plan_partition
from rerank_jobs.job_file import load_job
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.plan.frozen import run_folder
from tests.dags.conftest import HOME, Table, result_of, serve_guarded, tasks_of

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags

KEY = "sk-or-v1-waiting"

QUOTA = """
rules:
  - {kind: 429_openrouter_free_tier_daily, first: 2, count: 1, wait_seconds: 2}
"""


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (QuotaStop("q", wait_seconds=900.0), 901.0),
        (QuotaStop("q", wait_seconds=-5.0), 1.0),
        (QuotaStop("q", wait_seconds=1e300), 86_400.0),
        (QuotaStop("q"), None),
        (Busy("b"), 60.0),
        (EndpointStop("e"), None),
        (Interrupted("i"), None),
    ],
)
def test_a_wait_is_known_for_quotas_that_name_it_and_for_busy_shards(
    error: RerankJobsError, wait: float | None
) -> None:
    """Nothing else is waited for; no wait is longer than a day."""
    assert find_wait(error) == wait


def test_a_known_wait_reschedules_until_there_were_too_many() -> None:
    """The task goes on at the instant that was named; after 1,000 times it spends its try."""
    with pytest.raises(AirflowRescheduleException) as caught, report_failures(3):
        raise QuotaStop("come back", wait_seconds=3600.0)
    left = caught.value.reschedule_date - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(seconds=3601)
    spending = pytest.raises(AirflowException, match="come back")
    with spending as spent, report_failures(MOST_RESCHEDULES):
        raise QuotaStop("come back", wait_seconds=3600.0)
    assert not isinstance(spent.value, AirflowRescheduleException)


def read_reschedules(run: DagRun) -> list[tuple[str, int]]:
    """Return (task, map index) of each time that a task of the run was rescheduled."""
    query = """SELECT task_id, map_index FROM task_reschedule
        JOIN task_instance ON task_instance.id = ti_id WHERE run_id = ? AND dag_id = ?"""
    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        return database.execute(query, (run.run_id, run.dag_id)).fetchall()


@pytest.mark.slow
def test_a_quota_with_a_known_reset_reschedules_its_mapped_task(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Only the shard that met the quota waits; it ends in its first try and repeats no request."""
    faults = tmp_path / "faults.yaml"
    faults.write_text(QUOTA, encoding="utf-8")
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    with serve_guarded(KEY, faults=faults) as url:
        job: dict[str, Any] = {"endpoint": {"url": url, "max_concurrency": 1}}
        table = make_table("eu|2026-11-16", job=job | {"shards": {"rows_per_shard": 30}})
        at = datetime(2026, 11, 16, tzinfo=UTC)
        run = run_dag("own_rerank", at=at, job=str(table.job_file), region="eu")

    assert tasks_of(run) == {
        ("relevance.plan", -1): ("success", 1),
        ("relevance.score", 0): ("success", 1),
        ("relevance.score", 1): ("success", 1),
        ("relevance.publish", -1): ("success", 1),
        ("relevance.report", -1): ("success", 1),
    }
    ((task, shard),) = read_reschedules(run)  # which shard comes first is dag.test()'s choice
    assert (task, shard in {0, 1}) == ("relevance.score", True)
    assert result_of(run, "relevance")["paid_requests"] == 12
    sealed = [pair for pairs in table.seal_by_epoch().values() for pair in pairs]
    assert len(sealed) == len(set(sealed)) == 12 * 5


@pytest.mark.slow
def test_a_busy_shard_is_looked_at_again_until_it_is_free(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task whose shard another owner holds is rescheduled, and takes over once it is released."""
    monkeypatch.setattr("rerank_jobs.airflow.failures.BUSY_SECONDS", 1.0)
    partition, at = "eu|2026-11-15", datetime(2026, 11, 15, tzinfo=UTC)
    table = make_table(partition)
    job = load_job(table.job_file)
    folder = run_folder(partition, plan_partition(job, partition).plan_id, 0)
    other = make_airflow_owner("other_dag", "r", "score", 0)
    claim = acquire(open_roots(job).state, folder, other)
    release = threading.Timer(8.0, claim.__exit__, (None, None, None))
    release.start()

    run = run_dag("own_rerank", at=at, job=str(table.job_file), region="eu")

    assert tasks_of(run)["relevance.score", 0] == ("success", 1)
    reschedules = read_reschedules(run)
    assert 1 <= len(reschedules) <= 20
    assert set(reschedules) == {("relevance.score", 0)}
