"""The report of a run, as a real api-server serves it: to those who may, of what the run left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.dags.conftest import CANARY, MEMORY, Table
from tests.dags.leaks import find_leaks
from tests.dags.local_airflow import Ask, run_airflow

pytestmark = [pytest.mark.dags, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 400.0

DAG = """
from airflow.sdk import DAG, Param

from rerank_jobs.airflow import rerank_task_group

with DAG("reported", schedule=None, params={"job": Param("", type="string")}):
    rerank_task_group("{{ params.job }}", partition="p")
"""

BUILD = "import sys, hatchling.build; hatchling.build.build_editable(sys.argv[1])"


@pytest.fixture
def home() -> Iterator[Path]:
    """Return the folder of an Airflow of this test's own, where our entry points are installed."""
    with tempfile.TemporaryDirectory(prefix="rerank-jobs-airflow-", dir=MEMORY) as folder:
        home = Path(folder)
        (home / "dags").mkdir()
        (home / "dags" / "reported.py").write_text(DAG, encoding="utf-8")
        build = [sys.executable, "-c", BUILD, str(home)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        with zipfile.ZipFile(next(home.glob("*.whl"))) as wheel:
            for name in wheel.namelist():
                if ".dist-info/" in name:
                    wheel.extract(name, home / "installed")
        yield home


def run_once(ask: Ask, job_file: Path) -> str:
    """Run the DAG, once it is known, and return the run's id."""
    until = time.monotonic() + RUN_SECONDS
    run = ""
    while not run:
        with contextlib.suppress(OSError):  # not there yet, or too busy to answer
            conf = {"job": str(job_file)}
            made = ask("/dags/reported/dagRuns", {"logical_date": None, "conf": conf})
            run = str(made["dag_run_id"])
        assert time.monotonic() < until, "the DAG does not appear"
        time.sleep(0.5)
    state = ""
    while state not in {"success", "failed"}:
        assert time.monotonic() < until, "the run does not end"
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            state = ask(f"/dags/reported/dagRuns/{quote(run)}")["state"]
    assert state == "success"
    return run


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Return status and body."""
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_report_is_served_to_those_who_may_read_the_run(
    make_table: Callable[..., Table], home: Path
) -> None:
    """Without a token 401; with one the run's own report, by the task's link; no file by URL."""
    table = make_table("p")
    login = {"username": "alice", "password": "wallaby"}
    (home / "passwords.json").write_text(json.dumps({"alice": "wallaby"}), encoding="utf-8")
    variables = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{home / 'installed'}",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "alice:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
    }
    with run_airflow(home, variables, login) as ask:
        run = run_once(ask, table.job_file)
        task = f"/dags/reported/dagRuns/{quote(run)}/taskInstances/rerank.publish"
        link = ask(f"{task}/links")["extra_links"]["Run report"]
        left = ask(f"{task}/xcomEntries/report")["value"]
        base, allowed = ask.url, {"Authorization": f"Bearer {ask.token}"}
        answers: dict[str, Any] = {
            "with a cookie": get(base + link, {"Cookie": f"_token={ask.token}"}),
            "with a token": get(base + link, allowed),
            "without": get(base + link),
            "with a wrong one": get(base + link, {"Authorization": "Bearer x.y.z"}),
            "another run": get(f"{base}/rerank/runs/reported/other/rerank.publish", allowed),
            "another task": get(base + link.replace("publish", "plan"), allowed),
            "a file": get(f"{base}/rerank/runs/reported/..%2F..%2Fetc/passwd", allowed),
            "its documentation": get(f"{base}/rerank/openapi.json", allowed),
        }
        shutil.move(table.folder / "out.state", table.folder / "elsewhere")
        unseen = get(base + link, allowed)
        table.job_file.write_text("root:x:0:0:secretpeccary\n", encoding="utf-8")
        unread = get(base + link, allowed)

    codes = {name: code for name, (code, _) in answers.items()}
    assert codes == {
        "with a cookie": 200,
        "with a token": 200,
        "without": 401,
        "with a wrong one": 403,
        "another run": 404,
        "another task": 404,
        "a file": 404,
        "its documentation": 404,
    }
    page = answers["with a token"][1]
    assert "small, partition p, generation 1" in page
    assert "<svg" in page
    assert CANARY not in page
    assert left == {"job": str(table.job_file), "partition": "p", "generation": 1}
    assert (unseen[0], "does not see the state root" in unseen[1]) == (404, True)
    assert (unread[0], "cannot read the job file" in unread[1]) == (404, True)
    assert "secretpeccary" not in unread[1]
    assert find_leaks(home, [CANARY]) == []
