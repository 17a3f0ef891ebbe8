"""A key and texts that stand nowhere in Airflow: no log, XCom, rendered field or table has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rerank_jobs.job_file import load_job
from rerank_jobs.report.page import render_page
from rerank_jobs.reporting import gather_figures
from tests.dags.conftest import CANARY, HOME, Table, result_of, serve_guarded, tasks_of
from tests.dags.leaks import find_leaks, unfold

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

pytestmark = [pytest.mark.dags, pytest.mark.slow]

KEY = "sk-or-v1-quokkanumbat"

JOB = {"endpoint": {"max_concurrency": 1, "patience_seconds": 5}}

Keep = Callable[[str, pytest.MonkeyPatch, Path], None]
Search = Callable[[Table], list[str]]


@pytest.fixture
def search(airflow_log: Callable[[], str]) -> Search:
    """Return where key or texts stand: Airflow's home, its output, and the key in the job's."""

    def find(table: Table) -> list[str]:
        output = airflow_log()
        assert "relevance.score" in output
        shown = [
            f"output: {word}"
            for word in (KEY, CANARY)
            if any(word.encode() in layer for layer in unfold(output.encode()))
        ]
        return find_leaks(HOME, [KEY, CANARY]) + find_leaks(table.folder, [KEY]) + shown

    return find


@pytest.fixture(autouse=True)
def _fresh_backends() -> Iterator[None]:
    """Let no run find the secrets backend of another: Airflow remembers them by process."""
    from airflow.sdk.configuration import clear_secrets_backends_cache

    clear_secrets_backends_cache()
    yield
    clear_secrets_backends_cache()


def keep_in_environment(url: str, monkeypatch: pytest.MonkeyPatch, _folder: Path) -> None:
    """Keep the connection in a variable of the worker."""
    connection = {"conn_type": "openrouter", "host": url, "password": KEY}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(connection))


def keep_in_secrets_backend(url: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep the connection in a file that Airflow's local secrets backend reads."""
    path = folder / "connections.json"
    connection = {"conn_type": "openrouter", "host": url, "password": KEY}
    path.write_text(json.dumps({"shop": connection}), encoding="utf-8")
    backend = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", backend)
    options = json.dumps({"connections_file_path": str(path)})
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", options)


def keep_in_database(url: str, _monkeypatch: pytest.MonkeyPatch, _folder: Path) -> None:
    """Keep the connection where the form of Airflow's UI does, encrypted by its Fernet key."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session() as session:
        session.execute(delete(Connection))
        session.add(Connection(conn_id="shop", conn_type="openrouter", host=url, password=KEY))


@pytest.mark.parametrize(
    ("keep", "status", "times", "outcome"),
    [
        (keep_in_secrets_backend, 500, 0, ("success", 1)),
        (keep_in_database, 500, 0, ("success", 1)),
        (keep_in_environment, 404, 1, ("success", 2)),
        (keep_in_database, 401, 1000, ("failed", 1)),
    ],
    ids=["backend-success", "database-success", "environment-retry", "database-failure"],
)
def test_neither_key_nor_texts_stand_anywhere_in_airflow(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    keep: Keep,
    status: int,
    times: int,
    outcome: tuple[str, int],
) -> None:
    """The key reaches a server that requires it, which may answer by quoting it and all texts."""
    with serve_guarded(KEY, status=status, times=times) as url:
        keep(url, monkeypatch, tmp_path_factory.mktemp("secrets"))
        table = make_table("eu|2026-11-14", job=JOB)
        at = datetime(2026, 11, 14, tzinfo=UTC)
        run = run_dag("own_rerank", at=at, job=str(table.job_file), region="eu", conn_id="shop")

    assert tasks_of(run)["relevance.score", 0] == outcome
    if outcome[0] == "success":
        assert result_of(run, "relevance")["paid_requests"] == 12
        page = render_page(gather_figures(load_job(table.job_file), "eu|2026-11-14"))
        assert [word for word in (KEY, CANARY) if word in page] == []
    assert search(table) == []
