"""What others see of a task while it scores: its state in the UI and its metrics."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from rerank_jobs.airflow.progress import describe_progress, make_state_sink, tell_progress
from rerank_jobs.score import Progress
from tests.dags.conftest import HOME, Table, tasks_of

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags


def snapshot(replies: int) -> Progress:
    """Return a snapshot after so many replies, each of five passages and a tenth of a cent."""
    return Progress(
        sends=replies + 1,
        replies=replies,
        passages_scored=5 * replies,
        passages_failed=0,
        search_units=replies,
        cost_usd=0.001 * replies,
        unknown_usd=0.0,
        in_flight=0,
        deferred=0,
        per_minute=60.0,
        limit_per_minute=None,
        throttled=1,
        pause_seconds=0.0,
    )


def test_a_slow_store_does_not_hold_up_who_scores() -> None:
    """While a sink is stuck the observer returns at once, and the last snapshot is told after."""
    told: list[int] = []
    stuck, free = threading.Event(), threading.Event()

    def store(now: Progress, _requests: int) -> None:
        stuck.set()
        assert free.wait(30)
        told.append(now.replies)

    with tell_progress(store, every=0.001) as note:
        note(snapshot(1), 9)
        assert stuck.wait(30)
        started = time.perf_counter()
        for replies in range(2, 1002):
            note(snapshot(replies), 9)
        spent = time.perf_counter() - started
        free.set()
    assert told[0] == 1
    assert told[-1] == 1001
    assert spent < 1.0


def test_a_sink_that_fails_is_told_once_and_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other sinks are called, an error of the run passes, and no message is repeated."""
    told: list[int] = []

    def fail(_now: Progress, _requests: int) -> None:
        raise ValueError("of what it holds")

    def run() -> None:
        with tell_progress(fail, lambda now, _: told.append(now.replies), every=0.001) as note:
            for replies in (1, 2):
                note(snapshot(replies), 2)
                until = time.monotonic() + 30
                while told[-1:] != [replies] and time.monotonic() < until:
                    time.sleep(0.001)
            raise KeyError("the run's own")

    with pytest.raises(KeyError):
        run()
    assert told == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "Progress cannot be told (ValueError): scoring goes on"
    ]


def test_without_a_snapshot_nothing_is_told() -> None:
    """A shard that sends nothing writes no state and counts nothing."""
    told: list[int] = []
    with tell_progress(lambda *_: told.append(1), every=0.001):
        pass
    assert told == []


def test_the_state_is_a_line_that_people_read() -> None:
    """The store holds one key whose value is the line of the log."""
    held: dict[str, Any] = {}

    class Store:
        def set(self, key: str, value: Any) -> None:
            held[key] = value

    make_state_sink(Store())(snapshot(20), 80)
    assert held["progress"].startswith("20 of 80 requests, 100 passages, $0.020, 60 a minute")
    assert held["progress"].partition(", about")[0] in describe_progress(snapshot(20), 80, 1.0)


@pytest.fixture
def receiver() -> Iterator[Callable[[], list[str]]]:
    """Return a function that takes what a StatsD server got; Airflow's metrics go to it."""
    pytest.importorskip("statsd", reason="the package statsd is not installed")
    from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
    from airflow.sdk._shared.observability.metrics.statsd_logger import get_statsd_logger
    from airflow.sdk.observability import stats
    from statsd import StatsClient

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        port = server.getsockname()[1]

        def take() -> list[str]:
            lines: list[str] = []
            while True:
                try:
                    lines += server.recv(65536).decode().splitlines()
                except TimeoutError:
                    return lines

        clients: list[Any] = []

        def connect() -> Any:
            logger = get_statsd_logger(
                stats_class=StatsClient,
                host="127.0.0.1",
                port=port,
                prefix="airflow",
                statsd_influxdb_enabled=True,
                influxdb_tags_enabled=True,
            )
            clients.append(logger.statsd)
            return logger

        stats.initialize(factory=connect, export_legacy_names=False)
        yield take
        stats.initialize(factory=NoStatsLogger, export_legacy_names=False)
        for client in clients:
            client.close()


def test_metrics_and_state_of_a_run_arrive(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    receiver: Callable[[], list[str]],
) -> None:
    """A StatsD server gets each figure once, tagged by DAG and task; the state store has a line."""
    job = {"shards": {"rows_per_shard": 30}, "endpoint": {"requests_per_minute": 100_000}}
    table = make_table("eu|2026-11-14", job=job)
    at = datetime(2026, 11, 14, tzinfo=UTC)

    run = run_dag("own_rerank", at=at, job=str(table.job_file), region="eu")

    counted: dict[str, float] = {}
    for line in receiver():
        name, _, rest = line.partition(",")
        if name.startswith("airflow.rerank_jobs."):
            tags, _, value = rest.partition(":")
            assert tags.startswith("dag_id=own_rerank,task_id=relevance.")
            key = name.removeprefix("airflow.rerank_jobs.")
            counted[key] = counted.get(key, 0.0) + float(value.partition("|")[0])
    assert tasks_of(run)["relevance.report", -1] == ("success", 1)
    assert (counted["requests"], counted["pairs"], counted["search_units"]) == (12, 60, 12)
    assert counted["run.rows"] == 60
    assert 0 < counted["run.limit_utilisation"] <= 1
    assert 0 <= counted["run.top1_changed"] <= 1
    assert counted["run.duration"] > 0
    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        query = (
            "SELECT map_index, value FROM task_state_store WHERE run_id = ? AND key = 'progress'"
        )
        lines = dict(database.execute(query, (run.run_id,)).fetchall())
    assert set(lines) == {0, 1}
    assert sum(int(line.strip('"').partition(" of ")[0]) for line in lines.values()) == 12
