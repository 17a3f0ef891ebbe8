"""The nightly DAG: its shape, a night, the same night again, and nights that fail."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.publish.generations import read_current
from rerank_jobs.publish.verify import verify_generation
from tests.dags.conftest import CANARY, HOME, Table, result_of, tasks_of

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags

NIGHT = "2026-11-22"


def test_the_dags_import_without_errors(dag_bag: DagBag) -> None:
    """Airflow finds every DAG that comes with us and two of the tests' own, and no import error."""
    assert dag_bag.import_errors == {}
    ours = {"model_canary", "nightly_rerank", "search_log_enrichment"}
    ours |= {"backfill_rerank", "backfill_rerank_partition"}
    assert set(dag_bag.dags) == ours | {"own_canary", "own_rerank"}


def test_nightly_waits_plans_scores_publishes_and_reports(dag_bag: DagBag) -> None:
    """The DAG is a chain of five tasks; scoring is mapped; what follows it survives a skip."""
    dag = dag_bag.dags["nightly_rerank"]
    assert {task.task_id: set(task.downstream_task_ids) for task in dag.tasks} == {
        "wait_for_input": {"rerank.plan"},
        "rerank.plan": {"rerank.score", "rerank.publish", "rerank.report"},
        "rerank.score": {"rerank.publish", "rerank.report"},
        "rerank.publish": {"rerank.report"},
        "rerank.report": set(),
    }
    assert dag.get_task("rerank.score").is_mapped
    for task in ("rerank.publish", "rerank.report"):
        assert dag.get_task(task).trigger_rule == "none_failed"
    assert all(task.retries == 3 for task in dag.tasks)


def test_nightly_runs_one_night_at_a_time_for_the_day_before(dag_bag: DagBag) -> None:
    """The run at 02:00 is for the day before, no two runs overlap, and none is caught up."""
    dag = dag_bag.dags["nightly_rerank"]
    timetable: Any = dag.timetable
    assert (timetable.run_offset, timetable.key_format) == (-1, "%Y-%m-%d")
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert dag.default_args["retry_delay"] == timedelta(minutes=1)


@pytest.mark.slow
def test_a_night_publishes_and_the_same_night_again_sends_nothing(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """A night publishes a table that verifies; a second run keeps it and sends no request."""
    table = make_table(NIGHT, job={"shards": {"rows_per_shard": 20}})
    job = load_job(table.job_file)

    first = run_dag("nightly_rerank", job=str(table.job_file), partition=NIGHT)
    said = result_of(first)
    generation = read_current(open_roots(job).state, NIGHT)
    assert generation is not None
    found = verify_generation(job, open_roots(job), generation)
    again = run_dag("nightly_rerank", job=str(table.job_file), partition=NIGHT)

    assert first.state == "success"
    assert tasks_of(first) == {
        ("wait_for_input", -1): ("success", 1),
        ("rerank.plan", -1): ("success", 1),
        ("rerank.score", 0): ("success", 1),
        ("rerank.score", 1): ("success", 1),
        ("rerank.score", 2): ("success", 1),
        ("rerank.publish", -1): ("success", 1),
        ("rerank.report", -1): ("success", 1),
    }
    assert (found.problems, found.rows) == ((), 60)
    assert said["documents"] == {"scored": 60, "reused": 0, "single": 0, "failed": 0}
    assert (said["requests"], said["search_units"], said["paid_requests"]) == (12, 12, 12)
    assert tasks_of(again)["rerank.score", -1] == ("skipped", 0)
    assert result_of(again) == {**said, "requests": 0, "search_units": 0, "cost_usd": 0.0}


def test_no_text_of_the_table_reaches_airflow(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    airflow_log: Callable[[], str],
) -> None:
    """No query or document stands in any table of Airflow's database, nor in its log."""
    table = make_table(NIGHT)
    run = run_dag("nightly_rerank", job=str(table.job_file), partition=NIGHT)

    with sqlite3.connect(HOME / "airflow.db") as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = {name: database.execute(f'SELECT * FROM "{name}"').fetchall() for (name,) in names}
    database.close()
    log = airflow_log()
    assert run.state == "success"
    assert len(rows["xcom"]) > 3
    assert str(table.job_file) in str(rows["rendered_task_instance_fields"])
    assert CANARY not in str(rows)
    assert "Generation 1" in log
    assert CANARY not in log


def test_the_published_asset_event_holds_the_figures(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """Each successful night tells the asset's followers what was published."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    table = make_table(NIGHT)
    judged = [f"q{query:04d} 0 d00 1" for query in range(12)]
    (table.folder / "judged.qrels").write_text("\n".join(judged), encoding="utf-8")
    conf = {"job": str(table.job_file), "partition": NIGHT, "qrels": "judged.qrels"}
    run = run_dag("nightly_rerank", **conf)

    with create_session() as session:
        query = select(AssetEvent.extra).where(AssetEvent.source_run_id == run.run_id)
        (extra,) = session.scalars(query).all()
    report = result_of(run, task="report")
    told = {name: extra[name] for name in ("rows", "paid_usd", "queries_ranked", "top1_changed")}
    assert told == {name: report[name] for name in told}
    assert (told["rows"], told["queries_ranked"]) == (60, 12)
    assert 0 < told["top1_changed"] < 1
    assert (report["queries_judged"], report["ndcg_before"]) == (12, 1.0)
    assert report["ndcg_after"] < 1.0
    assert (report["requests"], report["throttled"], report["limit_utilisation"]) == (12, 0, None)


def test_judgements_that_cannot_be_read_fail_the_report_alone(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """The night is published; its report fails at once, so that somebody looks."""
    table = make_table(NIGHT)
    conf = {"job": str(table.job_file), "partition": NIGHT, "qrels": "nowhere.qrels"}
    run = run_dag("nightly_rerank", **conf)
    assert tasks_of(run)["rerank.publish", -1] == ("success", 1)
    assert tasks_of(run)["rerank.report", -1] == ("failed", 1)


def read_files(table: Table) -> dict[str, bytes]:
    """Return every published file and manifest."""
    paths = [*table.folder.glob("out/**/*.parquet"), *table.folder.glob("out.state/*/manifest/*")]
    return {str(path): path.read_bytes() for path in paths}


def test_the_same_run_again_keeps_generation_and_bytes(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """Cleared as a whole, a run publishes what it published and sends nothing."""
    at = datetime(2026, 11, 21, 2, tzinfo=UTC)
    table = make_table(NIGHT, job={"shards": {"rows_per_shard": 30}})
    conf = {"job": str(table.job_file), "partition": NIGHT}
    first = result_of(run_dag("nightly_rerank", at, **conf))
    before = read_files(table)

    again = run_dag("nightly_rerank", at, **conf)

    assert (again.state, result_of(again)["requests"]) == ("success", 0)
    assert result_of(again)["generation"] == first["generation"] == 1
    assert result_of(again, task="report")["paid_requests"] == 12
    assert len(before) == 3
    assert read_files(table) == before
