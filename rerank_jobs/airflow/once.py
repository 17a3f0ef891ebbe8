"""Run one DAG once in this process, with no scheduler and no service: ``python -m`` this module.

It is what the demo and tests start in a process of its own, under ``make_environment``. Its
standard output holds our own log lines alone; Airflow's log goes to standard error. A task that
fails is not tried again: starting it once more goes on from what is sealed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.sdk import DAG

__all__ = ["find_dags_folder", "main", "make_environment"]

INTERRUPTED = 130


def find_dags_folder() -> Path:
    """Return the folder of the DAGs that come with this package, from a wheel or a source tree."""
    package = Path(__file__).parents[1]
    packaged = package / "_dags"
    return packaged if packaged.is_dir() else package.parent / "dags"


def make_environment(home: Path, dags_folder: Path, outside: Mapping[str, str]) -> dict[str, str]:
    """Return ``outside`` with an Airflow that lives in ``home`` alone: SQLite, quiet, no examples.

    No setting of another Airflow in ``outside`` is left.
    """
    kept = {
        name: value
        for name, value in outside.items()
        if not name.removeprefix("_").startswith("AIRFLOW")
    }
    home = home.absolute()
    return kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-runs-inside-one-process-0",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder.absolute()),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "RERANK_JOBS_DEADLINE_HOURS": "0",  # dag.test() cannot run a DAG with a deadline
    }


@dataclass
class _Failures:
    """What went wrong in which task, in the order in which it did."""

    seen: list[tuple[str, BaseException]] = field(default_factory=list)

    def remember(self, context: Any) -> None:
        """Keep a task's exception: its ``on_failure_callback``."""
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.seen.append((context["ti"].task_id, error))

    def describe(self) -> dict[str, Any]:
        """Return the first failure as JSON: later tasks fail only because it did."""
        if not self.seen:
            return {"exit_code": 1, "task": None, "message": "no task says why"}
        task, error = self.seen[0]
        # Our own error stands behind the one that Airflow was told.
        cause = error.__context__ or error
        code = INTERRUPTED if isinstance(cause, KeyboardInterrupt) else 1
        message = str(error) or type(error).__name__
        return {
            "exit_code": getattr(cause, "exit_code", code),
            "task": task,
            "message": message.partition("\n")[0],
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run a DAG of ``AIRFLOW__CORE__DAGS_FOLDER`` and write what came of it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m rerank_jobs.airflow.once")
    parser.add_argument("dag_id")
    parser.add_argument(
        "--conf", type=json.loads, default={}, help="parameters of the run, as JSON"
    )
    parser.add_argument(
        "--run-after",
        type=datetime.fromisoformat,
        help="the run's instant: the same one again replaces that run, and takes over its claims",
    )
    parser.add_argument("--xcom-of", metavar="TASK", help="the task whose result is written")
    parser.add_argument("--result", type=Path, required=True, help="where to write it")
    arguments = parser.parse_args(argv)
    failures = _Failures()
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    dag = _load(arguments.dag_id)
    logging.getLogger("rerank_jobs.airflow").addHandler(logging.StreamHandler(ours))
    _let_fail_at_once(dag, failures)
    started = time.monotonic()
    at = arguments.run_after or datetime.now(UTC)
    run = dag.test(run_after=at, logical_date=at, run_conf=arguments.conf)
    if str(run.state) == "success":
        value = _read_xcom(run, arguments.xcom_of) if arguments.xcom_of else None
        found: dict[str, Any] = {"exit_code": 0, "value": value}
    else:
        found = failures.describe()
    found |= {"run_id": run.run_id, "seconds": time.monotonic() - started}
    draft = arguments.result.with_suffix(".tmp")
    draft.write_text(json.dumps(found), encoding="utf-8")
    draft.replace(arguments.result)
    return int(found["exit_code"])


def _load(dag_id: str) -> DAG:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils import db

    db.initdb()
    bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors:
        raise SystemExit("\n".join(bag.import_errors.values()))
    dag = bag.dags.get(dag_id)
    if dag is None:
        raise SystemExit(f"there is no DAG {dag_id} in {bag.dag_folder}")
    return dag


def _let_fail_at_once(dag: DAG, failures: _Failures) -> None:
    """Whoever waits at a terminal starts it again sooner than a retry would."""
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    changed = {"retries": 0, "on_failure_callback": [failures.remember]}
    for task in dag.tasks:
        if isinstance(task, MappedOperator):
            task.partial_kwargs.update(changed)
        else:
            for name, value in changed.items():
                setattr(task, name, value)


def _read_xcom(run: DagRun, task_id: str) -> Any:
    instance = run.get_task_instance(task_id)
    return None if instance is None else instance.xcom_pull(task_ids=task_id)


if __name__ == "__main__":
    sys.exit(main())
