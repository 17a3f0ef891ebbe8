"""The task group in a DAG of one's own: crashes, signals and retries pay nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from rerank_jobs.airflow.once import make_environment
from rerank_jobs.errors import BudgetStop, Busy, Fenced, Interrupted
from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.publish.generations import read_current
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.score import Progress
from tests.dags.conftest import CANARY, HOME, Table, result_of, serve_endpoint, tasks_of

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags

KILL_SECONDS = 60.0


def served_job(url: str) -> dict[str, Any]:
    """Return a job that sends four requests at a time and seals every four replies."""
    return {
        "endpoint": {"url": url, "max_concurrency": 4, "requests_per_minute": 100_000},
        "ledger": {"max_unsaved_replies": 4},
    }


def assert_published_once(table: Table, partition: str, epochs: int) -> None:
    """Check that the partition verifies and that no pair was sealed by two processes."""
    job = load_job(table.job_file)
    generation = read_current(open_roots(job).state, partition)
    assert generation is not None
    found = verify_generation(job, open_roots(job), generation)
    sealed = table.seal_by_epoch()
    everything = list(chain.from_iterable(sealed.values()))
    assert (found.problems, found.rows) == ((), table.queries * table.documents)
    assert len(sealed) == epochs
    assert len(everything) == len(set(everything)) == table.queries * table.documents


@pytest.mark.slow
def test_own_dag_names_its_partition_by_a_template(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """A DAG of one's own passes job and partition as Jinja, and its tasks are in its own group."""
    at = datetime(2026, 11, 20, tzinfo=UTC)
    table = make_table("eu|2026-11-20")

    run = run_dag("own_rerank", at=at, job=str(table.job_file), region="eu")

    assert set(tasks_of(run)) == {
        ("relevance.plan", -1),
        ("relevance.score", 0),
        ("relevance.publish", -1),
        ("relevance.report", -1),
    }
    assert result_of(run, "relevance")["output"] == str(table.folder / "out/ds=eu|2026-11-20")
    instance = run.get_task_instance("relevance.score", map_index=0)
    assert instance is not None
    assert instance.rendered_map_index == "eu|2026-11-20 shard 0"


def test_sigterm_seals_what_is_paid_and_the_retry_goes_on(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM under Airflow's task runner fails the try cleanly; Airflow's retry pays the rest."""
    at = datetime(2026, 11, 19, tzinfo=UTC)
    signals = iter([signal.SIGTERM])

    def observe(now: Progress) -> None:
        if now.replies >= 8:
            for number in signals:
                os.kill(os.getpid(), number)

    monkeypatch.setattr("rerank_jobs.airflow.steps.log_progress", lambda *_: observe)
    with serve_endpoint(latency_ms=50) as url:
        table = make_table("eu|2026-11-19", queries=60, documents=3, job=served_job(url))
        run = run_dag("own_rerank", at=at, job=str(table.job_file), region="eu")

    said = result_of(run, "relevance")
    assert tasks_of(run)["relevance.score", 0] == ("success", 2)
    assert_published_once(table, "eu|2026-11-19", epochs=2)
    assert said["requests"] < said["paid_requests"] == 60


@pytest.mark.slow
def test_killed_in_mid_shard_the_same_run_goes_on_from_what_is_sealed(
    make_table: Callable[..., Table], run_dag: Callable[..., DagRun]
) -> None:
    """After SIGKILL the same task takes over at once and repeats no sealed pair."""
    at = datetime(2026, 11, 18, 2, tzinfo=UTC)
    with serve_endpoint(latency_ms=100) as url:
        table = make_table("eu|2026-11-18", queries=120, documents=3, job=served_job(url))
        kill_in_mid_shard(table, at, segments=6)
        before = len(table.seal_by_epoch()[1])
        run = run_dag("own_rerank", at=at, job=str(table.job_file), region="eu")

    assert run.state == "success"
    assert 6 * 4 * 3 <= before < 120 * 3
    assert len(table.seal_by_epoch()[1]) == before
    assert_published_once(table, "eu|2026-11-18", epochs=2)
    assert result_of(run, "relevance")["requests"] == 120 - before // 3


def kill_in_mid_shard(table: Table, at: datetime, segments: int) -> None:
    """Run the DAG in a process of its own until so many segments are sealed, then SIGKILL it."""
    home = table.folder / "airflow"
    home.mkdir()
    conf = json.dumps({"job": str(table.job_file), "region": "eu"})
    command = [sys.executable, "-P", "-m", "rerank_jobs.airflow.once", "own_rerank"]
    command += ["--conf", conf, "--run-after", at.isoformat(), "--result", str(home / "result")]
    environment = make_environment(home, HOME / "dags", os.environ)
    until = time.monotonic() + KILL_SECONDS
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while len(list(table.folder.glob("out.state/*/run/*/*/seg/*.arrow"))) < segments:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("job", "region", "failed_task", "message"),
    [
        ({}, "us", "plan", "no such file or folder"),
        (
            {"budget": {"max_usd": 0.0}, "endpoint": {"usd_per_search": 1.0}},
            "eu",
            "plan",
            "over budget.max_usd",
        ),
        (
            {
                "budget": {"max_usd_per_day": 0.001},
                "endpoint": {"url": "http://127.0.0.1:9/api/v1"},
            },
            "eu",
            "plan",
            "budget.max_usd_per_day: $0.00 of $0.001 spent today",
        ),
        (
            {"context": {"tokens": 64, "overlap_tokens": 0, "long_documents": "fail"}},
            "eu",
            "publish",
            "documents failed",
        ),
    ],
    ids=["missing input", "over budget", "over the day", "gate"],
)
def test_what_a_retry_cannot_mend_fails_at_once(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    airflow_log: Callable[[], str],
    job: dict[str, Any],
    region: str,
    failed_task: str,
    message: str,
) -> None:
    """Missing input, a plan over a budget and a gate fail their task at its first try."""
    at = datetime(2026, 11, 17, tzinfo=UTC)
    table = make_table("eu|2026-11-17", first_times=40, job=job)

    run = run_dag("own_rerank", at=at, job=str(table.job_file), region=region)

    log = airflow_log()
    assert run.state == "failed"
    assert tasks_of(run)[f"relevance.{failed_task}", -1] == ("failed", 1)
    assert "AirflowFailException: " in log
    assert message in log
    assert CANARY not in log


@pytest.mark.parametrize(
    ("partition_key", "params", "ds", "expected"),
    [
        ("2026-11-22", {"partition": "a"}, "2026-11-23", "2026-11-22"),
        (None, {"partition": "a"}, "2026-11-23", "a"),
        (None, {"partition": None}, "2026-11-23", "2026-11-23"),
        (None, {}, None, "_all"),
    ],
)
def test_the_partition_is_the_runs_key_then_the_parameter_then_the_date(
    partition_key: str | None, params: dict[str, Any], ds: str | None, expected: str
) -> None:
    """The partition of a run is found in this order, and without any it is the whole table."""
    from rerank_jobs.airflow.partition import find_partition

    run = SimpleNamespace(partition_key=partition_key)
    context = {"dag_run": run, "params": params} | ({"ds": ds} if ds else {})
    assert find_partition(context) == expected


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (BudgetStop("b"), True),
        (Fenced("f"), True),
        (Busy("y"), False),
        (Interrupted("i"), False),
        (ValueError(f"cannot cast {CANARY}"), False),
    ],
)
def test_failures_are_final_or_retried_and_quote_no_table(error: Exception, final: bool) -> None:
    """Errors that somebody must act on are final; an alien error's message stays behind."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from rerank_jobs.airflow.failures import report_failures

    with pytest.raises(AirflowException) as caught, report_failures():
        raise error
    assert isinstance(caught.value, AirflowFailException) is final
    assert caught.value.__suppress_context__
    assert CANARY not in str(caught.value)


def test_a_full_disk_is_told_as_it_is_and_retried() -> None:
    """An OSError names a path and no table value, so it passes unchanged for Airflow to retry."""
    from rerank_jobs.airflow.failures import report_failures

    with pytest.raises(OSError, match="No space left"), report_failures():
        raise OSError(28, "No space left on device", str(Path("/somewhere")))
