"""The enrichment DAG: its shape, a day of a log, the same day again, and a crash in the middle."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from rerank_jobs.job_file import load_job
from rerank_jobs.storage import LocalStore, Put
from tests.click_oracle import describe_day, describe_search
from tests.dags.conftest import tasks_of
from tests.log_kit import make_searches, read_files, write_log_job, write_searches
from tests.unit.cli.kit import CANARIES

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags

DAY = "2026-11-22"
DAG = "search_log_enrichment"


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """Write a day of a log, and its job."""
    write_searches(tmp_path, DAY, make_searches(20, clicks=2))
    return write_log_job(tmp_path, shards={"rows_per_shard": 10})


def summary_of(run: DagRun) -> dict[str, Any]:
    """Return what ``summarize`` said."""
    instance = run.get_task_instance("summarize")
    assert instance is not None
    value: dict[str, Any] = instance.xcom_pull(task_ids="summarize")
    return value


def test_it_follows_the_log_by_partition_and_summarises_what_is_published(dag_bag: DagBag) -> None:
    """Partitioned events of the log's asset start it; its last task updates an asset of its own."""
    dag = dag_bag.dags[DAG]
    timetable: Any = dag.timetable
    assert type(timetable).__name__ == "PartitionedAssetTimetable"
    assert timetable.asset_condition.name == "search_log"
    summarize = dag.get_task("summarize")
    assert summarize.upstream_task_ids == {"rerank.publish"}
    assert [asset.name for asset in summarize.outlets] == ["search_log_enriched"]
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert dag.default_args["retry_delay"] == timedelta(minutes=1)


def test_a_day_is_published_and_summarised_once(
    job_file: Path, run_dag: Callable[..., DagRun], airflow_log: Callable[[], str]
) -> None:
    """The event says what plain Python finds in the table; the day again sends, changes nothing."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    first = run_dag(DAG, job=str(job_file), partition=DAY)
    said = summary_of(first)
    published = pq.read_table(job_file.parent / "out" / f"ds={DAY}", partitioning=None).to_pylist()
    before = read_files(job_file.parent / "out.summaries")
    again = run_dag(DAG, job=str(job_file), partition=DAY)
    with create_session() as session:
        query = select(AssetEvent.extra).where(AssetEvent.source_run_id == first.run_id)
        (extra,) = session.scalars(query).all()

    wanted = describe_day([describe_search(row["results"]) for row in published])
    assert (first.state, again.state) == ("success", "success")
    assert {name: said[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)
    assert (said["partition"], said["generation"], said["queries"]) == (DAY, 1, 4)
    assert extra == said == summary_of(again)
    assert tasks_of(again)["rerank.score", -1] == ("skipped", 0)
    assert read_files(job_file.parent / "out.summaries") == before
    assert not any(canary in str(said) + airflow_log() for canary in CANARIES)


@pytest.mark.slow
def test_a_crash_between_both_summaries_is_mended_by_the_retry(
    job_file: Path,
    dag_bag: DagBag,
    run_dag: Callable[..., DagRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that is full after the first file costs one try; the next leaves one file of each."""
    monkeypatch.setattr(dag_bag.dags[DAG].get_task("summarize"), "retry_delay", timedelta(0))
    put = LocalStore.put_file_if_absent
    failing = iter([OSError(28, "No space left on device", "out.summaries")])

    def fail_once(store: LocalStore, name: str, source: Path) -> Put:
        if name.startswith("days/"):
            for error in failing:
                raise error
        return put(store, name, source)

    monkeypatch.setattr(LocalStore, "put_file_if_absent", fail_once)
    run = run_dag(DAG, job=str(job_file), partition=DAY)
    said = summary_of(run)
    assert run.state == "success"
    assert tasks_of(run)["summarize", -1] == ("success", 2)
    assert tasks_of(run)["rerank.publish", -1] == ("success", 1)
    root = Path(load_job(job_file).summaries_root)
    assert sorted(map(str, root.rglob("*.parquet"))) == [said["day_path"], said["searches_path"]]


def test_a_job_without_clicks_fails_at_once(
    job_file: Path, run_dag: Callable[..., DagRun], airflow_log: Callable[[], str]
) -> None:
    """What a retry cannot mend fails the task at its first try, by the line of the command."""
    text = job_file.read_text(encoding="utf-8").replace("clicked: clicked", "clicked: null")
    job_file.write_text(text, encoding="utf-8")
    run = run_dag(DAG, job=str(job_file), partition=DAY)
    assert tasks_of(run)["summarize", -1] == ("failed", 1)
    assert "input.columns.clicked" in airflow_log()
