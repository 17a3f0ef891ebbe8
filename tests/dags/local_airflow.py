"""A whole Airflow on loopback: api-server, scheduler and dag-processor, LocalExecutor, SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from cryptography.fernet import Fernet

from rerank_jobs.airflow.once import make_environment

__all__ = ["Ask", "run_airflow"]

START_SECONDS = 240.0
ASK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks the REST API; ``url`` is the server's, ``token`` the user's."""

    url: str
    token: str

    def __call__(self, path: str, data: Any = None, method: str | None = None) -> Any:
        """Return what the API answers; with ``data`` it is a POST unless a method is named."""
        return _send(f"{self.url}/api/v2{path}", data, self.token, method)


_COMPONENTS = (
    ("api-server", "--apps", "core,execution"),
    ("dag-processor",),
    ("scheduler", "--skip-serve-logs"),
)


_TRIGGERER = ("triggerer", "--skip-serve-logs")


@contextlib.contextmanager
def run_airflow(
    home: Path,
    variables: Mapping[str, str],
    login: Mapping[str, str] | None = None,
    *,
    triggerer: bool = False,
) -> Iterator[Ask]:
    """Start an Airflow that lives in ``home`` (DAGs in ``home/dags``); stop all of it at the end.

    Yields ``ask(path, data, method)``, which calls the REST API and returns what it answers.
    Whoever calls is an administrator, unless ``variables`` say otherwise: then ``login`` has name
    and password.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = _make_environment(home, port) | dict(variables)
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    with contextlib.ExitStack() as stack:
        for component in (*_COMPONENTS, *([_TRIGGERER] if triggerer else [])):
            output = stack.enter_context((home / f"{component[0]}.out").open("wb"))
            process = subprocess.Popen(
                [*airflow, *component], env=environment, stdout=output, stderr=output
            )
            stack.callback(_stop, process)
        yield _log_in(f"http://127.0.0.1:{port}", login)


def _make_environment(home: Path, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return make_environment(home, home / "dags", os.environ) | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "NO_PROXY": "*",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__SECRET_KEY": "of-one-test-alone",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": Fernet.generate_key().decode(),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        # SQLite has one writer; on a busy machine its turn may take longer than the usual 5 s.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    }


def _log_in(url: str, login: Mapping[str, str] | None) -> Ask:
    """Wait for the API, and return what asks it."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            token = _send(f"{url}/auth/token", login)["access_token"]
            break
        except (OSError, urllib.error.URLError):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
    return Ask(url, token)


def _send(url: str, data: Any = None, token: str = "", method: str | None = None) -> Any:
    body = None if data is None else json.dumps(data).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        url, body, headers, method=method
    )
    with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:  # noqa: S310
        return json.load(answer)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, which Airflow's components do not do by themselves."""
    family = _find_family(process.pid)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _find_family(pid: int) -> list[psutil.Process]:
    try:
        head = psutil.Process(pid)
        return [*head.children(recursive=True), head]
    except psutil.NoSuchProcess:
        return []
