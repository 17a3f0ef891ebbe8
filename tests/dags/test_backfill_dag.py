"""Backfills under a real scheduler: by the backfill DAG and by Airflow's own command."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rerank_jobs.airflow.once import find_dags_folder
from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.publish.generations import read_current
from tests.dags.conftest import MEMORY
from tests.dags.leaks import find_leaks
from tests.dags.local_airflow import Ask, run_airflow
from tests.unit.cli.kit import (
    CANARIES,
    JOB,
    KEY_CANARY,
    make_rows,
    merge,
    read_stats,
    serve,
    write_table,
)

pytestmark = [pytest.mark.dags, pytest.mark.slow]

DAYS = [f"2026-11-{day}" for day in range(11, 16)]
QUERIES = 40
DAY_USD = 0.04
RUN_SECONDS = 400.0
PREFIX = "rerank-jobs-airflow-"
RANGE, PARTITION, NIGHTLY = "backfill_rerank", "backfill_rerank_partition", "nightly_rerank"


@dataclass(frozen=True)
class World:
    """An Airflow with our DAGs, an endpoint that bills, and jobs of five days each."""

    home: Path
    data: Path
    ask: Ask
    url: str

    def make_job(self, name: str) -> Path:
        """Write five days whose queries are the job's own; return the job file."""
        folder = self.data / name
        for day in DAYS:
            rows = make_rows(QUERIES, 3)
            for row in rows:
                row["query"] += f" on {day} by {name}"
            write_table(folder / f"in/ds={day}/candidates.parquet", rows)
        changes = {
            "name": name,
            "input": merge(JOB["input"], {"path": "in/{partition}"}),
            "partition": {"template": "ds={key}"},
            "endpoint": {"url": self.url, "requests_per_minute": 60_000},
            "shards": {"rows_per_shard": 1000},
        }
        path = folder / "job.yaml"
        path.write_text(yaml.safe_dump(merge(JOB, changes)), encoding="utf-8")
        return path

    def start(self, dag: str, **conf: Any) -> str:
        """Start a run as soon as the DAG is known; return its id."""
        until = time.monotonic() + RUN_SECONDS
        while True:
            with contextlib.suppress(urllib.error.HTTPError):
                run = self.ask(f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
                return str(run["dag_run_id"])
            assert time.monotonic() < until, "the DAG does not appear"
            time.sleep(0.5)

    def finish(self, dag: str, run: str) -> tuple[str, dict[str, Any]]:
        """Wait for the end of a run; return its state and its tasks by id and map index."""
        until = time.monotonic() + RUN_SECONDS
        while self.ask(f"/dags/{dag}/dagRuns/{run}")["state"] not in {"success", "failed"}:
            assert time.monotonic() < until, self.list_tasks(dag, run)
            time.sleep(0.5)
        return self.ask(f"/dags/{dag}/dagRuns/{run}")["state"], self.list_tasks(dag, run)

    def list_tasks(self, dag: str, run: str) -> dict[str, Any]:
        """Return the state of every task of a run."""
        tasks = self.ask(f"/dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {f"{task['task_id']}.{task['map_index']}": task["state"] for task in tasks}

    def read_xcom(self, dag: str, run: str, task: str, key: str = "return_value") -> Any:
        """Return what a task left."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/{key}"
        return self.ask(f"{path}?deserialize=true")["value"]

    def backfill(self, job: Path, **conf: Any) -> str:
        """Start the backfill DAG over all days; return the run's id."""
        days = {"from": DAYS[0], "to": DAYS[-1]}
        return self.start(RANGE, **{"job": str(job), "budget_usd": 1.0} | days | conf)

    def sum_up(self, run: str) -> dict[str, Any]:
        """Wait for the end of a backfill, which must be a success; return its summary."""
        state, tasks = self.finish(RANGE, run)
        assert state == "success", tasks
        summary: dict[str, Any] = self.read_xcom(RANGE, run, "summary")
        return summary

    def answer(self, run: str, option: str) -> None:
        """Answer as a person would, once the run waits and no slot of any pool is held."""
        until = time.monotonic() + RUN_SECONDS
        while True:
            waits = self.list_tasks(RANGE, run)["approve.-1"] == "awaiting_input"
            held = [pool["occupied_slots"] for pool in self.ask("/pools")["pools"]]
            if waits and not any(held):
                break
            assert time.monotonic() < until, (self.list_tasks(RANGE, run), held)
            time.sleep(0.5)
        path = f"/dags/{RANGE}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
        assert DAYS[0] in self.ask(path)["body"]
        self.ask(path, {"chosen_options": [option], "params_input": {}}, "PATCH")

    def clear(self, dag: str, run: str) -> None:
        """Run all tasks of a run again, to a good end."""
        self.ask(f"/dags/{dag}/dagRuns/{run}/clear", {"dry_run": False})
        state, tasks = self.finish(dag, run)
        assert state == "success", tasks

    def backfill_nightly(self, job: Path, behaviour: str) -> list[str]:
        """Do what ``airflow backfill create`` does, all days; return the runs at their end."""
        order = {
            "dag_id": NIGHTLY,
            "from_date": f"{DAYS[0]}T00:00:00Z",
            "to_date": f"{DAYS[-1]}T23:59:59Z",
            "run_backwards": True,
            "reprocess_behavior": behaviour,
            "max_active_runs": 3,
            "dag_run_conf": {"job": str(job)},
        }
        until = time.monotonic() + RUN_SECONDS
        while True:  # 404 until the DAG is known, 409 while the backfill before is not ended
            with contextlib.suppress(urllib.error.HTTPError):
                number = self.ask("/backfills", order)["id"]
                break
            assert time.monotonic() < until
            time.sleep(1)
        while True:
            runs = self.ask(f"/dags/{NIGHTLY}/dagRuns?limit=100&run_type=backfill")["dag_runs"]
            ended = [run for run in runs if run["state"] == "success"]
            if self.ask(f"/backfills/{number}")["completed_at"] or len(ended) == len(runs):
                break
            assert time.monotonic() < until, runs
            time.sleep(1)
        assert sorted({run["partition_key"] for run in ended}) == DAYS
        return [run["dag_run_id"] for run in ended]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Start Airflow and an endpoint once for all tests of this module."""
    with contextlib.ExitStack() as stack:
        home, data = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=MEMORY)))
            for _ in range(2)
        )
        (home / "dags").mkdir()
        for name in ("nightly_rerank.py", "backfill_rerank.py"):
            shutil.copy(find_dags_folder() / name, home / "dags")
        url = stack.enter_context(serve("--scorer", "instant", "--latency-ms", "0"))
        ask = stack.enter_context(run_airflow(home, {"OPENROUTER_API_KEY": KEY_CANARY}))
        yield World(home, data, ask, url)


def list_generations(job_file: Path) -> dict[str, tuple[int, str]]:
    """Return number and digests of what is published of every day."""
    job = load_job(job_file)
    found = {day: read_current(open_roots(job).state, day) for day in DAYS}
    return {
        day: (one.number, ",".join(part.sha256 for part in one.parts))
        for day, one in found.items()
        if one is not None
    }


def test_a_budget_for_two_and_a_half_days_publishes_the_newest_two(world: World) -> None:
    """It names what it left; the next budget, once approved, publishes that and pays for no more.

    While a person is asked no slot is held and nothing is sent. A cleared day pays nothing.
    """
    job, before = world.make_job("budget"), read_stats(world.url)["requests"]

    def count_requests() -> int:
        return read_stats(world.url)["requests"] - before

    run = world.backfill(job, budget_usd=2.5 * DAY_USD)
    first = world.sum_up(run)
    assert first["published"] == [DAYS[4], DAYS[3]]
    assert list(first["left"]) == [DAYS[2], DAYS[1], DAYS[0]]
    assert first["spent_usd"] == pytest.approx(2 * DAY_USD)
    assert count_requests() == 2 * QUERIES

    run = world.backfill(job, approve_above_usd=0.01)
    world.answer(run, "Approve")
    assert count_requests() == 2 * QUERIES
    second = world.sum_up(run)
    assert second["published"] == [DAYS[2], DAYS[1], DAYS[0]]
    assert second["published_before"] == [DAYS[4], DAYS[3]]
    assert second["spent_usd"] == pytest.approx(3 * DAY_USD)

    published = list_generations(job)
    third = world.sum_up(world.backfill(job, approve_above_usd=0.0))
    world.clear(PARTITION, world.read_xcom(RANGE, run, "price")[0]["run_id"])
    assert (third["published"], third["spent_usd"]) == ([], 0.0)
    assert count_requests() == 5 * QUERIES
    assert list_generations(job) == published
    assert set(published) == set(DAYS)


def test_a_rejected_backfill_sends_nothing_and_says_so(world: World) -> None:
    """The run ends well, its partitions are left, and none of them has a run."""
    job, before = world.make_job("rejected"), read_stats(world.url)["requests"]
    run = world.backfill(job, approve_above_usd=0.01)
    world.answer(run, "Reject")
    summary = world.sum_up(run)
    assert summary["rejected"]
    assert (summary["published"], sorted(summary["left"])) == ([], DAYS)
    assert world.list_tasks(RANGE, run)["start.-1"] == "skipped"
    assert read_stats(world.url)["requests"] == before


def test_airflows_own_backfill_of_the_nightly_dag_pays_once(world: World) -> None:
    """Five days; clear and ``reprocess completed`` send nothing and keep generation and bytes."""
    job, before = world.make_job("nightly"), read_stats(world.url)["requests"]
    runs = world.backfill_nightly(job, "none")
    published = list_generations(job)
    assert read_stats(world.url)["requests"] - before == 5 * QUERIES
    assert set(published) == set(DAYS)

    world.clear(NIGHTLY, runs[0])
    again = world.backfill_nightly(job, "completed")
    assert len(again) == 10
    assert list_generations(job) == published
    assert read_stats(world.url)["requests"] - before == 5 * QUERIES
    assert find_leaks(world.home, CANARIES) == []
