"""What Airflow costs: the demo's table by the nightly DAG, and by ``rerank-jobs run``'s own code.

Run it by hand: ``make bench-airflow``. Both score the same table anew, with the embedded
endpoint, in this process: first the DAG once to warm up (Airflow builds its in-process API), then
one after the other. Printed are the two times, their difference and ratio, of each round.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rerank_jobs.airflow.once import find_dags_folder, make_environment
from rerank_jobs.cli.demo import JOB_FILE
from rerank_jobs.report.demo_table import build_demo

if TYPE_CHECKING:
    from airflow.sdk import DAG

__all__ = ["Measured", "measure", "set_up_airflow"]

KEY = "2026-11-22"


@dataclass(frozen=True, slots=True)
class Measured:
    """What the same table took, warm, by the DAG and by ``run_partition``: seconds, and of CPU."""

    dag: float
    run: float
    dag_cpu: float
    run_cpu: float
    rows: int

    @property
    def difference(self) -> float:
        """Seconds that Airflow adds."""
        return self.dag - self.run


def set_up_airflow(home: Path) -> DAG:
    """Make an Airflow in ``home`` and return its nightly DAG; before anything imports Airflow."""
    environment = make_environment(home, find_dags_folder(), os.environ)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment, AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING")
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils import db

    db.initdb()
    return DagBag(dag_folder=str(find_dags_folder())).dags["nightly_rerank"]


def measure(dag: DAG, folder: Path, *, queries: int, candidates: int) -> Iterator[Measured]:
    """Build the table and warm up; then yield rounds, in each of which both run on a copy of it."""
    from airflow.sdk import timezone

    from rerank_jobs.job import run_partition
    from rerank_jobs.job_file import load_job

    made = folder / "made"
    made.mkdir(parents=True)
    table = build_demo(made, queries=queries, candidates=candidates, key=KEY)
    (made / "rerank.yaml").write_text(JOB_FILE, encoding="utf-8")
    instants = itertools.count(1)

    def run_dag(job: Path) -> None:
        at = timezone.coerce_datetime(datetime.now(UTC) + timedelta(seconds=next(instants)))
        done = dag.test(run_after=at, logical_date=at, run_conf={"job": str(job), "partition": KEY})
        assert str(done.state) == "success", done.state

    def run_command(job: Path) -> None:
        assert run_partition(load_job(job), KEY).generation is not None

    def take_time(name: str, run: Callable[[Path], None]) -> tuple[float, float]:
        copy = folder / name
        shutil.copytree(made, copy)
        started, cpu = time.perf_counter(), time.process_time()
        run(copy / "rerank.yaml")
        return time.perf_counter() - started, time.process_time() - cpu

    take_time("cold", run_dag)
    for number in itertools.count():
        dag_seconds, dag_cpu = take_time(f"dag-{number}", run_dag)
        run_seconds, run_cpu = take_time(f"run-{number}", run_command)
        yield Measured(dag_seconds, run_seconds, dag_cpu, run_cpu, table.rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dag = set_up_airflow(folder / "airflow")
        rounds = measure(dag, folder, queries=arguments.queries, candidates=arguments.candidates)
        for found in itertools.islice(rounds, arguments.rounds):
            show(found)


def show(found: Measured) -> None:
    """Print one round."""
    print(f"{found.rows:,} rows                 seconds   of CPU")
    print(f"  dag.test(), warm        {found.dag:8.1f} {found.dag_cpu:8.1f}")
    print(f"  run                     {found.run:8.1f} {found.run_cpu:8.1f}")
    cpu, times = found.dag_cpu - found.run_cpu, found.dag_cpu / found.run_cpu
    print(f"  Airflow adds            {found.difference:8.1f} {cpu:8.1f}")
    print(f"  ratio                   {found.dag / found.run:8.2f} {times:8.2f}", flush=True)


if __name__ == "__main__":
    main()
