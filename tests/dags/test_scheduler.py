"""Under a real scheduler and its supervised task processes: waits, pools, labels, logs, masks."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dags.conftest import CANARY, MEMORY, Table, serve_guarded
from tests.dags.leaks import find_leaks
from tests.dags.local_airflow import Ask, run_airflow

pytestmark = [pytest.mark.dags, pytest.mark.slow]

KEY = "sk-or-v1-bilbywombat"
RUN_SECONDS = 300.0

DAG = """
from airflow.sdk import DAG, Param

from rerank_jobs.airflow import rerank_task_group

with DAG("waits", schedule=None, params={"job": Param("", type="string")}):
    rerank_task_group(
        "{{ params.job }}",
        partition="p",
        conn_id="shop",
        score_args={"max_active_tis_per_dagrun": 2, "pool": "rerank"},
    )
"""

FAULTS = """
latency: {seconds: 0.5}
rules:
  - {kind: 429_openrouter_free_tier_daily, first: 5, count: 1, wait_seconds: 20}
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Return the folder of an Airflow of this test's own, with its DAG."""
    with tempfile.TemporaryDirectory(prefix="rerank-jobs-airflow-", dir=MEMORY) as folder:
        (Path(folder) / "dags").mkdir()
        (Path(folder) / "dags" / "waits.py").write_text(DAG, encoding="utf-8")
        yield Path(folder)


def watch(ask: Ask, run: str) -> tuple[str, list[Any], list[tuple[str, str, int]]]:
    """Return the run's state, its tasks at the end, and (shard 0, shard 1, slots) on the way."""
    seen = []
    until = time.monotonic() + RUN_SECONDS
    while True:
        tasks = ask(f"/dags/waits/dagRuns/{run}/taskInstances")["task_instances"]
        slots = ask("/pools/rerank")["running_slots"]
        shards = [task["state"] for task in sorted(tasks, key=lambda task: task["map_index"])]
        seen.append((shards[-2], shards[-1], slots))
        state = ask(f"/dags/waits/dagRuns/{run}")["state"]
        if state in {"success", "failed"} or time.monotonic() > until:
            return state, tasks, seen
        time.sleep(0.5)


def start_run(ask: Ask, job_file: Path) -> str:
    """Start a run once the DAG is known; return its id."""
    until = time.monotonic() + RUN_SECONDS
    conf = {"job": str(job_file)}
    while True:
        with contextlib.suppress(urllib.error.HTTPError):
            run = ask("/dags/waits/dagRuns", {"logical_date": None, "conf": conf})
            return str(run["dag_run_id"])
        assert time.monotonic() < until, "the DAG does not appear"
        time.sleep(0.5)


def test_a_waiting_shard_holds_no_slot_and_keeps_its_try(
    make_table: Callable[..., Table], home: Path, tmp_path: Path
) -> None:
    """While one shard waits for its quota the other has the pool's only slot; nothing leaks."""
    faults = tmp_path / "faults.yaml"
    faults.write_text(FAULTS, encoding="utf-8")
    job = {"endpoint": {"max_concurrency": 1}, "shards": {"rows_per_shard": 60}}
    table = make_table("p", queries=24, job=job)
    with serve_guarded(KEY, faults=faults) as url:
        connection = {"conn_type": "openrouter", "host": url, "password": KEY}
        variables = {"AIRFLOW_CONN_SHOP": json.dumps(connection)}
        with run_airflow(home, variables) as ask:
            ask("/pools", {"name": "rerank", "slots": 1})
            state, tasks, seen = watch(ask, start_run(ask, table.job_file))

    shards = {task["map_index"]: task for task in tasks if task["task_id"] == "rerank.score"}
    logs = "".join(path.read_text(encoding="utf-8") for path in home.glob("logs/**/*.log"))
    assert state == "success"
    assert {task["try_number"] for task in tasks} == {1}
    assert ("up_for_reschedule", "running", 1) in seen
    assert max(slots for *_, slots in seen) == 1
    assert [shards[number]["rendered_map_index"] for number in (0, 1)] == ["p shard 0", "p shard 1"]
    assert sum(len(pairs) for pairs in table.seal_by_epoch().values()) == 24 * 5
    assert "this task goes on by itself at" in logs
    assert "Shard 1 (of 2) is done: this try sent" in logs
    assert find_leaks(home, [KEY, CANARY]) == []
