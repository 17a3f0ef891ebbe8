"""Importing a DAG file is what Airflow does every few seconds: it must be quick and touch nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from rerank_jobs.airflow.once import find_dags_folder

pytestmark = pytest.mark.dags

LIMIT_SECONDS = 0.3
ATTEMPTS = 3

SCRIPT = """
import importlib.util, json, sys, time

import airflow.sdk

seen = []
watching = True


def watch(event, arguments):
    if not watching:
        return
    if event.startswith("socket.") or event in {"subprocess.Popen", "os.mkdir", "os.remove"}:
        seen.append([event, repr(arguments)])
    elif event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
        seen.append([event, repr(arguments)])


sys.addaudithook(watch)
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("dag_file", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
seconds = time.perf_counter() - started
watching = False
heavy = [name for name in ("pyarrow", "duckdb", "httpx_aiohttp", "numpy") if name in sys.modules]
print(json.dumps({"seconds": seconds, "seen": seen, "heavy": heavy}))
"""


@pytest.fixture(scope="module")
def imports() -> list[dict[str, Any]]:
    """The DAG file imported in fresh processes, after airflow.sdk: seconds, and what it opened."""
    file = str(find_dags_folder() / "nightly_rerank.py")
    found = []
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [sys.executable, "-P", "-c", SCRIPT, file],
            env=os.environ,
            check=True,
            capture_output=True,
            text=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def test_importing_costs_little_beyond_airflow_itself(imports: list[dict[str, Any]]) -> None:
    """The best of a few imports takes less than 0.3 s once airflow.sdk is there."""
    assert min(one["seconds"] for one in imports) < LIMIT_SECONDS
    assert imports[-1]["heavy"] == []


def test_importing_touches_neither_network_nor_files(imports: list[dict[str, Any]]) -> None:
    """Nothing is opened but Python modules, and no socket is made."""
    assert imports[-1]["seen"] == []
