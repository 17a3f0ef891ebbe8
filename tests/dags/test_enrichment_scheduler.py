"""The enrichment DAG under a real scheduler: a partition of the log's asset starts its own run."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.airflow.once import find_dags_folder
from rerank_jobs.job_file import load_job
from tests.dags.conftest import MEMORY
from tests.dags.leaks import find_leaks
from tests.dags.local_airflow import Ask, run_airflow
from tests.log_kit import make_searches, write_log_job, write_searches
from tests.unit.cli.kit import CANARIES

pytestmark = [pytest.mark.dags, pytest.mark.slow]

DAG = "search_log_enrichment"
DAYS = ("2026-11-21", "2026-11-22", "2026-11-23")
WAIT_SECONDS = 240.0

WRITER = """
from airflow.sdk import DAG, Asset, PartitionedAtRuntime, task

with DAG("log_writer", schedule=PartitionedAtRuntime()):

    @task(outlets=[Asset("search_log")])
    def write():
        pass

    write()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Return the folder of an Airflow of this test's own: the enrichment DAG and a log's writer."""
    with tempfile.TemporaryDirectory(prefix="rerank-jobs-airflow-", dir=MEMORY) as folder:
        dags = Path(folder) / "dags"
        dags.mkdir()
        shutil.copy(find_dags_folder() / f"{DAG}.py", dags)
        (dags / "log_writer.py").write_text(WRITER, encoding="utf-8")
        yield Path(folder)


def wait_for(ask: Ask, path: str, done: Any) -> Any:
    """Return what the API answers once it is as wanted; a DAG may not be known at first."""
    until = time.monotonic() + WAIT_SECONDS
    answer = None
    while time.monotonic() < until:
        with contextlib.suppress(urllib.error.HTTPError):
            answer = ask(path)
            if done(answer):
                return answer
        time.sleep(0.5)
    raise AssertionError(f"{path} stayed {answer}")


def test_a_partition_of_the_log_starts_a_run_for_that_partition(home: Path, tmp_path: Path) -> None:
    """A day that is written starts one run, which summarises that day alone; a clear adds nothing.

    The input holds other days, too.
    """
    for number, day in enumerate(DAYS, start=1):
        write_searches(tmp_path, day, make_searches(10 * number))
    job_file = write_log_job(tmp_path)
    root = Path(load_job(job_file).summaries_root)
    with run_airflow(home, {"RERANK_JOBS_SEARCH_LOG": str(job_file)}) as ask:
        for dag in (DAG, "log_writer"):
            wait_for(ask, f"/dags/{dag}", bool)
        ask("/dags/log_writer/dagRuns", {"logical_date": None, "partition_key": DAYS[1]})
        (run,) = wait_for(ask, f"/dags/{DAG}/dagRuns", is_over)["dag_runs"]
        events = ask("/assets/events?limit=100")["asset_events"]
        before = {path: path.read_bytes() for path in root.rglob("*.parquet")}
        clear = {"dry_run": False, "dag_run_id": run["dag_run_id"], "only_failed": False}
        ask(f"/dags/{DAG}/clearTaskInstances", clear)
        tasks = wait_for(
            ask, f"/dags/{DAG}/dagRuns/{run['dag_run_id']}/taskInstances", is_summarised_twice
        )["task_instances"]

    assert (run["partition_key"], run["state"], run["run_type"]) == (
        DAYS[1],
        "success",
        "asset_triggered",
    )
    (event,) = [one for one in events if "searches" in one["extra"]]
    assert event["partition_key"] == event["extra"]["partition"] == DAYS[1]
    assert (event["extra"]["searches"], event["extra"]["generation"]) == (20, 1)
    # The plan of a published partition has no shard: Airflow takes the first run's task away.
    assert {one["state"] for one in tasks if one["task_id"] == "rerank.score"} <= {
        "removed",
        "skipped",
    }
    assert sorted(path.parent.name for path in before) == [f"ds={DAYS[1]}"] * 2
    assert before == {path: path.read_bytes() for path in root.rglob("*.parquet")}
    assert find_leaks(home, CANARIES) == []


def is_over(found: Any) -> bool:
    return [run["state"] for run in found["dag_runs"]] in (["success"], ["failed"])


def is_summarised_twice(found: Any) -> bool:
    tries = {one["task_id"]: (one["state"], one["try_number"]) for one in found["task_instances"]}
    return tries["summarize"] == ("success", 2)
