"""Airflow imports DAG files every few seconds: that must be quick and touch nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.airflow.once import find_dags_folder

pytestmark = pytest.mark.dags

LIMIT_SECONDS = 0.3
ATTEMPTS = 3

# CPU time: other tests may keep the machine busy, and an import that waits for something is caught
# by WATCH.
TIME = """
import importlib.util, json, sys, time

import airflow.sdk

started = time.process_time()
spec = importlib.util.spec_from_file_location("dag_file", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(json.dumps([time.process_time() - started, sorted(sys.modules)]))
"""

# Airflow's own cron parser asks the program "file" about the interpreter when it is imported.
WATCH = """
import importlib.util, json, sys

import airflow.sdk
import croniter

seen = []


def watch(event, arguments):
    opened = event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so"))
    if opened or event.startswith(("socket.", "subprocess.", "os.mkdir", "os.remove", "os.rename")):
        seen.append([event, repr(arguments)])


sys.addaudithook(watch)
spec = importlib.util.spec_from_file_location("dag_file", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(json.dumps(seen))
"""


DAG_FILES = sorted(find_dags_folder().glob("*.py"))


def run_fresh(script: str, file: Path) -> Any:
    """Run a script on a DAG's file in a fresh process and return what it printed."""
    command = [sys.executable, "-P", "-c", script, str(file)]
    done = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.stem)
def test_importing_costs_little_beyond_airflow_itself(file: Path) -> None:
    """An import takes less than 0.3 s of CPU once airflow.sdk is there, and loads nothing heavy."""
    for _ in range(ATTEMPTS):
        seconds, modules = run_fresh(TIME, file)
        assert {"pyarrow", "duckdb", "numpy"}.isdisjoint(modules)
        if seconds < LIMIT_SECONDS:
            return
    pytest.fail(f"{seconds:.2f} s")


@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.stem)
def test_importing_touches_neither_network_nor_files(file: Path) -> None:
    """Nothing is opened but Python modules, no socket is made, no program is started."""
    assert run_fresh(WATCH, file) == []
