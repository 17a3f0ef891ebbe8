"""A whole distributed Airflow on loopback: Postgres, Redis, CeleryExecutor, two workers, endpoint.

Everything lives in one folder: ``airflow`` (its home, with task logs), ``logs`` (the output of each
process), ``postgres`` (data), ``pids`` (what was started), ``data`` (tables, as you like).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.processes import ROOT, Child, Family, kill_tree
from tests.cluster.programs import POSTGRES_USER, Programs, find_programs
from tests.cluster.settings import HOST, NAME, USER, Plan, make_settings

__all__ = ["WORKERS", "Cluster", "make_folder", "run_cluster"]

WORKERS = 2
START_SECONDS = 240.0
POLL_SECONDS = 0.5
DONE = frozenset({"success", "failed"})

_AIRFLOW = (sys.executable, "-m", "airflow")
_COMPONENTS = {
    "api-server": ("api-server", "--apps", "core,execution"),
    "dag-processor": ("dag-processor",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
_POSTGRES_OPTIONS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
_WAVES = {"database": 0, "endpoint": 1, "airflow": 2}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A healthy cluster; ``api`` is a client of ``/api/v2`` with an administrator's token."""

    plan: Plan
    family: Family
    api: httpx.Client

    def trigger(self, dag_id: str, conf: Mapping[str, Any], key: str | None = None) -> str:
        """Start a run, with a partition key if one is given, once the DAG is known; return its id.

        Raises:
            RuntimeError: Airflow refuses; the message holds its answer.

        """
        body = {"logical_date": None, "conf": dict(conf), "partition_key": key}
        until = time.monotonic() + START_SECONDS
        while True:
            answer = self.api.post(f"/dags/{dag_id}/dagRuns", json=body)
            if answer.is_success:
                return str(answer.json()["dag_run_id"])
            if answer.status_code != httpx.codes.NOT_FOUND or time.monotonic() > until:
                raise RuntimeError(f"no run of {dag_id}: {answer.text}")
            time.sleep(POLL_SECONDS)

    def wait_for_run(
        self,
        dag_id: str,
        run_id: str,
        seconds: float,
        watch: Callable[[], None] = lambda: None,
    ) -> str:
        """Return the run's last state; ``watch`` is called about twice a second meanwhile.

        Raises:
            TimeoutError: it is not over after ``seconds``.
            RuntimeError: a process of the cluster ended that nobody killed.

        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            watch()
            self.family.check()
            answer = self.api.get(f"/dags/{dag_id}/dagRuns/{run_id}").raise_for_status().json()
            if answer["state"] in DONE:
                return str(answer["state"])
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"run {run_id} of {dag_id} is not over after {seconds:.0f} s")

    def list_tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, by task and map index."""
        answer = self.api.get(
            f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 500}
        )
        tasks: list[dict[str, Any]] = answer.raise_for_status().json()["task_instances"]
        return sorted(tasks, key=lambda task: (task["task_id"], task["map_index"]))

    def worker(self, number: int) -> Child:
        """Return a worker's process, 1 or 2."""
        return next(one for one in self.family.children if one.name == f"worker-{number}")

    def kill_worker(self, number: int) -> int:
        """Kill a worker and all that it started with SIGKILL; return how many processes it was."""
        child = self.worker(number)
        killed = kill_tree([child])
        self.family.forget(child)
        return killed

    @property
    def log_files(self) -> list[Path]:
        """Return all logs: of the processes, and of the tasks."""
        folders = (self.plan.logs, self.plan.home / "logs")
        return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def make_folder() -> Path:
    """Return a new folder for a cluster, in memory where that can be.

    Others may enter it: where we are root Postgres is another user.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    folder = Path(tempfile.mkdtemp(prefix="rerank-jobs-cluster-", dir=memory))
    folder.chmod(0o711)
    return folder


@contextmanager
def run_cluster(
    plan: Plan,
    *,
    endpoint: Sequence[str] = ("rerank_jobs", "serve"),
    endpoint_variables: Mapping[str, str] | None = None,
    keep: bool = False,
    tell: Callable[[str], None] = lambda _text: None,
) -> Iterator[Cluster]:
    """Start a cluster in ``plan.folder``; yield it once it is healthy; end all of it at the end.

    However it ends, nothing that was started is left: neither after a failure half way nor if this
    process is killed. The folder is removed unless ``keep``. ``endpoint`` is a Python module with
    arguments, started with ``--port``; ``tell`` hears what is being waited for.

    Raises:
        MissingProgram: Postgres or Redis is not on this machine.
        RuntimeError: a process ended; the message holds the end of its log.
        TimeoutError: one is not healthy after four minutes.

    """
    programs = find_programs()
    for path in (plan.home, plan.logs, plan.folder / "data"):
        path.mkdir(parents=True, exist_ok=True)
    family = Family(plan.folder / "pids", plan.logs)
    try:
        family.watch(remove=None if keep else plan.folder)
        tell("Postgres and Redis")
        _start_stores(family, plan, programs)
        command = [sys.executable, "-P", "-m", *endpoint, "--port", str(plan.endpoint)]
        served = _add_path(os.environ) | dict(endpoint_variables or {})
        family.start("endpoint", command, served, wave=_WAVES["endpoint"])
        settings = make_settings(plan)
        tell("two workers, and the database's tables")
        _start_workers(family, settings)
        family.run("migration", [*_AIRFLOW, "db", "migrate"], settings)
        tell("api-server, scheduler, dag-processor and triggerer")
        _start_components(family, settings)
        with httpx.Client(base_url=f"{plan.url}/api/v2", timeout=60.0, trust_env=False) as api:
            _wait_for(family, lambda: _is_healthy(plan, api))
            yield Cluster(plan, family, api)
    finally:
        family.end()
        if not keep:
            shutil.rmtree(plan.folder, ignore_errors=True)


def _start_stores(family: Family, plan: Plan, programs: Programs) -> None:
    data = plan.folder / "postgres"
    data.mkdir(mode=0o700)
    word = plan.folder / "password"
    word.write_text(plan.password, encoding="utf-8")
    if programs.as_postgres:
        shutil.chown(data, POSTGRES_USER)
        shutil.chown(word, POSTGRES_USER)
    initdb = [*programs.as_postgres, programs.initdb, "-D", str(data), "-U", "airflow"]
    initdb += ["-A", "scram-sha-256", "--pwfile", str(word), "-N", "-E", "UTF8", "--locale=C"]
    family.run("initdb", initdb, {**os.environ, "PWD": "/"})
    word.unlink()
    options = ["max_connections=200", "unix_socket_directories=", *_POSTGRES_OPTIONS]
    server = [*programs.as_postgres, programs.postgres, "-D", str(data), "-h", HOST]
    server += ["-p", str(plan.postgres), *(part for one in options for part in ("-c", one))]
    family.start("postgres", server, os.environ, wave=_WAVES["database"], end_signal=signal.SIGINT)
    redis = [programs.redis, "--port", str(plan.redis), "--bind", HOST, "--dir", str(plan.folder)]
    redis += ["--save", "", "--appendonly", "no"]
    family.start("redis", redis, os.environ, wave=_WAVES["database"])
    _wait_for(family, lambda: all(_answers(port) for port in (plan.postgres, plan.redis)))


def _start_components(family: Family, settings: Mapping[str, str]) -> None:
    for name, arguments in _COMPONENTS.items():
        named = {**settings, NAME: name}
        family.start(name, [*_AIRFLOW, *arguments], named, wave=_WAVES["airflow"])


def _start_workers(family: Family, settings: Mapping[str, str]) -> None:
    for number in range(1, WORKERS + 1):
        name = f"worker-{number}"
        command = [*_AIRFLOW, "celery", "worker", "-H", f"{name}@%h", "--skip-serve-logs"]
        command += ["--pid", str(family.record.with_name(f"{name}.pid"))]
        command += ["--without-gossip", "--without-mingle"]
        family.start(name, command, {**settings, NAME: name}, wave=_WAVES["airflow"])


def _wait_for(family: Family, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_SECONDS
    while not ready():
        family.check()
        if time.monotonic() > until:
            raise TimeoutError(f"the cluster is not healthy after {START_SECONDS:.0f} s")
        time.sleep(0.2)


def _is_healthy(plan: Plan, api: httpx.Client) -> bool:
    """Say whether all components say that they are well; log in as soon as somebody listens."""
    with contextlib.suppress(httpx.TransportError):
        if "Authorization" not in api.headers:
            login = {"username": USER, "password": plan.password}
            answer = api.post(f"{plan.url}/auth/token", json=login)
            if answer.is_error:
                return False
            api.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        health = api.get("/monitor/health").json()
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        logs = [plan.logs / f"worker-{number}.log" for number in range(1, WORKERS + 1)]
        return (
            all(health[part]["status"] == "healthy" for part in parts)
            and all(b" ready." in log.read_bytes() for log in logs)
            and _answers(plan.endpoint)
        )
    return False


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _add_path(environment: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    return {**environment, "PYTHONPATH": path}
