"""The nightly DAG under a real scheduler: a late run is told, and a cleared one sends nothing."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.airflow.once import find_dags_folder
from tests.dags.conftest import CANARY, MEMORY, Table
from tests.dags.leaks import find_leaks
from tests.dags.local_airflow import Ask, run_airflow

pytestmark = [pytest.mark.dags, pytest.mark.slow]

RUN_SECONDS = 300.0
# The scheduler itself starts the night that is due: at 02:00 for the day before.
NIGHT = str((datetime.now(UTC) - timedelta(hours=26)).date())
RUNS = "/dags/nightly_rerank/dagRuns"

LATE = """
import pathlib

FILE = pathlib.Path(__file__).with_name("late.txt")


def note(late):
    FILE.write_text(late["dag_id"] + " " + late["partition"])
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Return the folder of an Airflow of this test's own, with a hook for late runs."""
    with tempfile.TemporaryDirectory(prefix="rerank-jobs-airflow-", dir=MEMORY) as folder:
        home = Path(folder)
        (home / "dags").mkdir()
        (home / "plugins").mkdir()  # on the path of each of Airflow's processes
        (home / "plugins" / "shop_late.py").write_text(LATE, encoding="utf-8")
        yield home


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    """Return what ``look`` finds once it finds something."""
    until = time.monotonic() + RUN_SECONDS
    while True:
        with contextlib.suppress(OSError):  # also of an API that is slow to answer
            if found := look():
                return found
        assert time.monotonic() < until, what
        time.sleep(0.5)


def finish(ask: Ask, run: str) -> dict[str, Any]:
    """Return a run's tasks by name once it ended well; a mapped task is named with its number."""

    def look() -> bool:
        return ask(f"{RUNS}/{run}")["state"] in {"success", "failed"}

    with contextlib.suppress(AssertionError):
        wait_for("the run does not end", look)
    tasks = ask(f"{RUNS}/{run}/taskInstances")["task_instances"]
    found = {f"{task['task_id']}.{task['map_index']}": task for task in tasks}
    assert ask(f"{RUNS}/{run}")["state"] == "success", {
        name: task["state"] for name, task in found.items()
    }
    return found


def read_xcom(ask: Ask, run: str, task: str) -> dict[str, Any]:
    path = f"{RUNS}/{run}/taskInstances/{task}/xcomEntries/return_value"
    value: dict[str, Any] = ask(f"{path}?deserialize=true")["value"]
    return value


def test_a_late_night_is_told_and_a_cleared_one_pays_nothing(
    make_table: Callable[..., Table], home: Path
) -> None:
    """Deadline, metrics, progress and clear, as the user of a whole Airflow sees them."""
    table = make_table(NIGHT, queries=24, job={"shards": {"rows_per_shard": 60}})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        variables = {
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(server.getsockname()[1]),
            "AIRFLOW__METRICS__METRICS_ALLOW_LIST": "rerank_jobs",
            "RERANK_JOBS_NIGHTLY": str(table.job_file),
            "RERANK_JOBS_DEADLINE_HOURS": str(1 / 3600),
            "RERANK_JOBS_LATE_HOOK": "shop_late.note",
            "RERANK_JOBS_PARALLEL": "2",
        }
        with run_airflow(home, variables, triggerer=True) as ask:
            # Only now: a night that is due starts at once, and its tasks need the api-server.
            shutil.copy(find_dags_folder() / "nightly_rerank.py", home / "dags")
            (due,) = wait_for("the night is not started", lambda: ask(RUNS)["dag_runs"])
            run = due["dag_run_id"]
            first = finish(ask, run)
            published = read_xcom(ask, run, "rerank.publish")
            progress = read_progress(ask, run)
            metrics = read_metrics(server)
            ask(f"{RUNS}/{run}/clear", {"dry_run": False})
            again = finish(ask, run)
            report = read_xcom(ask, run, "rerank.report")
            late = home / "plugins" / "late.txt"
            wait_for("nobody is told that the run is late", late.exists)

    assert due["partition_key"] == NIGHT
    assert {name.rpartition(".")[0] for name in first} == {
        "wait_for_input",
        *(f"rerank.{task}" for task in ("plan", "score", "publish", "report")),
    }
    assert (published["requests"], published["generation"]) == (24, 1)
    assert " of " in progress
    assert " requests, " in progress
    assert {"rerank_jobs.requests", "rerank_jobs.run.rows"} <= metrics
    assert again["rerank.score.-1"]["state"] == "skipped"
    assert (report["requests"], report["generation"], report["rows"]) == (0, 1, 120)
    assert late.read_text(encoding="utf-8") == f"nightly_rerank {NIGHT}"
    assert find_leaks(home, [CANARY]) == []


def read_progress(ask: Ask, run: str) -> str:
    """Return what the state store of the first shard's task says."""
    path = f"{RUNS}/{run}/taskInstances/rerank.score/state-store/progress?map_index=0"
    return str(ask(path)["value"])


def read_metrics(server: socket.socket) -> set[str]:
    """Return the names of the metrics of ours that came."""
    names = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            for line in server.recv(65536).decode().splitlines():
                names.add(line.partition(":")[0].removeprefix("airflow."))
    return names
