"""``python -m tests.cluster``: the native topology by hand, until Ctrl-C; ``demo``: a night on it.

Exit codes: 0 done, 1 the run failed, 2 a program is missing, 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from rerank_jobs.cli.demo import JOB_FILE
from rerank_jobs.report.demo_table import build_demo
from tests.cluster.processes import Family
from tests.cluster.programs import MissingProgram, find_programs
from tests.cluster.settings import TASKS_PER_WORKER, USER, Plan, make_plan
from tests.cluster.topology import WORKERS, Cluster, make_folder, run_cluster

DAG_ID = "nightly_rerank"
PARTITION = "2026-11-22"
QUERIES, CANDIDATES = 400, 50
ROWS_PER_SHARD = 2500
LATENCY_MS = 50
RUN_SECONDS = 600.0
INTERRUPTED = 130

PAGE = """
Airflow:  {url}   user {user}, password {password}
Folder:   {folder}
          logs/ of the processes, airflow/logs/ of the tasks, data/ with the demo's table
Endpoint: {endpoint}   ({stats} says what it was asked)

Start the nightly DAG: in the UI, or

  TOKEN=$(curl -s {url}/auth/token -H 'Content-Type: application/json' \\
    -d '{{"username": "{user}", "password": "{password}"}}' | cut -d'"' -f4)
  curl -s {url}/api/v2/dags/{dag}/dagRuns -H "Authorization: Bearer $TOKEN" \\
    -H 'Content-Type: application/json' -d '{{"logical_date": null, "partition_key": "{key}"}}'

Ctrl-C stops all of it{rest}.
"""


def main() -> int:
    """Start a cluster with the demo's table; serve it, or run the nightly DAG once."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    parser.add_argument("what", nargs="?", choices=("serve", "demo"), default="serve")
    parser.add_argument(
        "--folder", type=Path, help="a new folder that is kept; else one that is removed at the end"
    )
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where a shell started this in the background, which ignores SIGINT there.
        signal.signal(number, signal.default_int_handler)
    try:
        find_programs()
        return _run(arguments.what, arguments.folder)
    except MissingProgram as missing:
        print(f"cluster: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped: no process is left")
        return INTERRUPTED


def _run(what: str, folder: Path | None) -> int:
    keep = folder is not None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=False)
    place = folder or make_folder()
    job = place.resolve() / "data" / "rerank.yaml"
    parallel = str(WORKERS * TASKS_PER_WORKER)
    variables = {"RERANK_JOBS_NIGHTLY": str(job), "RERANK_JOBS_PARALLEL": parallel}
    plan = make_plan(place, variables=variables)
    endpoint = ("rerank_jobs", "serve", "--latency-ms", str(LATENCY_MS))
    with run_cluster(plan, endpoint=endpoint, keep=keep, tell=_tell) as cluster:
        _tell("the demo's table")
        table = build_demo(job.parent, queries=QUERIES, candidates=CANDIDATES, key=PARTITION)
        write_job(job, plan)
        if what == "demo":
            return _run_night(cluster, table.rows, table.qrels)
        rest = "" if keep else ", and removes the folder"
        print(
            PAGE.format(
                url=plan.url,
                user=USER,
                password=plan.password,
                folder=plan.folder,
                endpoint=plan.endpoint_url,
                stats=plan.endpoint_url.replace("api/v1", "stats"),
                dag=DAG_ID,
                key=PARTITION,
                rest=rest,
            ),
            flush=True,
        )
        return _wait(cluster.family)


def _tell(what: str) -> None:
    print(f"Starting {what}", flush=True)


def write_job(path: Path, plan: Plan) -> None:
    """Write the demo's job, with the cluster's endpoint and one limit for both workers."""
    job = yaml.safe_load(JOB_FILE)
    job["endpoint"] |= {
        "url": plan.endpoint_url,
        "requests_per_minute": 3000,
        "limit_store": plan.limit_store,
        "limit_window_seconds": 6,
    }
    job["shards"] = {"rows_per_shard": ROWS_PER_SHARD}
    path.write_text(yaml.safe_dump(job, sort_keys=False), encoding="utf-8")


def _wait(family: Family) -> int:
    """Return when a process ended by itself; Ctrl-C is the usual way out."""
    while True:
        try:
            family.check()
        except RuntimeError as error:
            print(f"cluster: {error}", file=sys.stderr)
            return 1
        time.sleep(1.0)


def _run_night(cluster: Cluster, rows: int, qrels: Path) -> int:
    print(f"Running {DAG_ID} for partition {PARTITION}: {rows:,} pairs", flush=True)
    started = time.monotonic()
    run_id = cluster.trigger(DAG_ID, {"qrels": qrels.name}, PARTITION)
    state = cluster.wait_for_run(DAG_ID, run_id, RUN_SECONDS)
    tasks = cluster.list_tasks(DAG_ID, run_id)
    for task in tasks:
        shard = f" {task['rendered_map_index']}" if task["rendered_map_index"] else ""
        took = f"{task['duration'] or 0:.1f} s"
        print(f"  {task['task_id']}{shard}: {task['state']} on {task['hostname']}, {took}")
    scored = Counter(task["hostname"] for task in tasks if task["task_id"] == "rerank.score")
    print(f"The run took {time.monotonic() - started:.0f} s: {state}")
    print(f"Shards scored by worker: {dict(sorted(scored.items()))}")
    for name, value in _read_report(cluster, run_id).items():
        print(f"  {name}: {value}")
    return 0 if state == "success" else 1


def _read_report(cluster: Cluster, run_id: str) -> dict[str, Any]:
    path = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/rerank.report/xcomEntries/return_value"
    answer = cluster.api.get(path)
    figures: dict[str, Any] = answer.json()["value"] if answer.is_success else {}
    return figures


if __name__ == "__main__":
    sys.exit(main())
