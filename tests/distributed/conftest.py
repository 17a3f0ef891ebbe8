"""One night on one cluster, in which a worker is killed; the tests look at what came of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.programs import MissingProgram, find_programs
from tests.cluster.settings import make_plan
from tests.cluster.stores import read_redis
from tests.cluster.topology import Cluster, make_folder, run_cluster
from tests.distributed.scenario import (
    KEY,
    PARTITION,
    SHARD_REQUESTS,
    WINDOW,
    write_job,
    write_table,
)
from tests.distributed.single import run_single

RUN_SECONDS = 400.0
KILL_AFTER = 1.25 * WINDOW
"""Seconds after the first request: the server's window began before the kill."""

DAG_ID = "nightly_rerank"
POLICY = """
from datetime import timedelta

from airflow.sdk.definitions.mappedoperator import MappedOperator


def task_policy(task):
    where = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
    where["retry_delay"] = timedelta(seconds=1)
"""
"""A cluster policy: the DAG as it is shipped, but for its waits between tries."""

PARALLEL = {"RERANK_JOBS_PARALLEL": "8", "RERANK_JOBS_POOL": "rerank"}


@dataclass
class Night:
    """What was seen of the night: the cluster that still runs, and what the server counted.

    ``counted`` holds (seconds, requests billed) about twice a second; ``victims`` the map indices
    that the killed worker was scoring.
    """

    cluster: Cluster
    single: Path
    output: Path
    counted: list[tuple[float, int]] = field(default_factory=list)
    passed: set[tuple[str, bytes]] = field(default_factory=set)
    victims: tuple[int, ...] = ()
    victim: str = ""
    killed_at: float = 0.0
    killed: int = 0
    billed_at_kill: int = 0
    state: str = ""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    bill: dict[str, int] = field(default_factory=dict)

    def ask(self, page: str) -> Any:
        """Return a page of the endpoint: ``stats`` or ``bill``."""
        url = self.cluster.plan.endpoint_url.replace("api/v1", page)
        return httpx.get(url, timeout=30.0, trust_env=False).json()

    def watch(self, run_id: str) -> None:
        """Look once at the server and at Redis; kill a worker when its time has come."""
        requests = self.ask("stats")["requests"]
        if requests or self.counted:
            self.counted.append((time.monotonic(), requests))
        self.passed.update(read_redis(self.cluster.plan))
        if self.victim or not requests or time.monotonic() < self.counted[0][0] + KILL_AFTER:
            return
        scoring: dict[str, list[int]] = {"worker-1": [], "worker-2": []}
        for task in self.cluster.list_tasks(DAG_ID, run_id):
            if task["task_id"] == "rerank.score" and task["state"] == "running":
                scoring[task["hostname"]].append(task["map_index"])
        if min(map(len, scoring.values())) == 0:
            return
        # The other one must have work until Airflow notices and starts the lost tasks again.
        self.victim = min(scoring, key=lambda name: sum(SHARD_REQUESTS[i] for i in scoring[name]))
        self.victims = tuple(scoring[self.victim])
        self.killed = self.cluster.kill_worker(int(self.victim[-1]))
        self.killed_at, self.billed_at_kill = time.monotonic(), self.ask("stats")["requests"]


@pytest.fixture(scope="session")
def night() -> Iterator[Night]:
    """Run a 40,000-pair table on two workers, one of which is killed; the cluster still runs."""
    try:
        find_programs()
    except MissingProgram as missing:
        pytest.skip(str(missing))
    for package in ("airflow.providers.celery", "psycopg2", "redis"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install -e '.[cluster]'")
    folder = make_folder()
    try:
        yield from run_night(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_night(folder: Path) -> Iterator[Night]:
    began = time.monotonic()
    plan, data = make_plan(folder, variables=PARALLEL), folder / "data"
    (plan.home / "config").mkdir(parents=True)
    policy = plan.home / "config" / "airflow_local_settings.py"
    policy.write_text(POLICY, encoding="utf-8")
    write_table(data / "in")
    single = run_single(data, plan)
    share = {"limit_store": plan.limit_store, "limit_window_seconds": WINDOW}
    job_file = write_job(data / "night.yaml", plan, "out", requests_per_minute=1000, **share)
    with run_cluster(
        plan,
        endpoint=("tests.distributed.strict_server", "--strict"),
        endpoint_variables={"GUARD_KEY": KEY},
    ) as cluster:
        print(f"\ncluster healthy {time.monotonic() - began:.0f} s after the session began")
        add_connection(cluster)
        seen = Night(cluster, single, data / "out")
        run_id = cluster.trigger(DAG_ID, {"job": str(job_file), "conn_id": "shop"}, PARTITION)
        seen.state = cluster.wait_for_run(DAG_ID, run_id, RUN_SECONDS, lambda: seen.watch(run_id))
        seen.tasks = cluster.list_tasks(DAG_ID, run_id)
        seen.stats, seen.bill = seen.ask("stats"), seen.ask("bill")["pairs"]
        print(f"run over {time.monotonic() - began:.0f} s after the session began")
        yield seen
        ending = time.monotonic()
    print(f"stopped in {time.monotonic() - ending:.0f} s")


def add_connection(cluster: Cluster) -> None:
    connection = {"connection_id": "shop", "conn_type": "openrouter", "password": KEY}
    connection["host"] = cluster.plan.endpoint_url
    for path, body in (("/connections", connection), ("/pools", {"name": "rerank", "slots": 8})):
        cluster.api.post(path, json=body).raise_for_status()
