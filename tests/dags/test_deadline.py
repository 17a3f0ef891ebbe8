"""A run that is late: the nightly DAG's alert, and what it calls."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from rerank_jobs.airflow.deadline import alert_after, report_late
from rerank_jobs.airflow.once import find_dags_folder

pytestmark = pytest.mark.dags

CONTEXT = {
    "dag_run": {
        "dag_id": "nightly_rerank",
        "dag_run_id": "scheduled__1",
        "partition_key": "2026-11-22",
    },
    "deadline": {"id": "1", "deadline_time": "2026-11-23T10:00:00Z"},
}

LATE = {
    "dag_id": "nightly_rerank",
    "run_id": "scheduled__1",
    "partition": "2026-11-22",
    "deadline": "2026-11-23T10:00:00Z",
}

READ = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("dag_file", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from airflow.sdk import DAG
(dag,) = [value for value in vars(module).values() if isinstance(value, DAG)] or [
    module.wait_for_input.dag
]
alerts = dag.deadline or []
score = dag.get_task("rerank.score").partial_kwargs
print([(type(a.reference).__name__, a.interval.total_seconds(), a.callback.path, a.callback.kwargs)
       for a in (alerts if isinstance(alerts, list) else [alerts])],
      score["pool"], score["max_active_tis_per_dagrun"], dag.get_task("wait_for_input").timeout)
"""

told: list[dict[str, Any]] = []


def note(late: dict[str, Any]) -> None:
    """Take what a hook is told."""
    told.append(late)


async def note_later(late: dict[str, Any]) -> None:
    """Take what an async hook is told."""
    told.append(late | {"async": True})


async def test_a_late_run_is_logged_and_told_to_the_hook(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line; a plain and an async hook get the same facts; without a hook none is called."""
    told.clear()
    with caplog.at_level(logging.ERROR, "rerank_jobs.airflow.deadline"):
        for hook in ("", f"{__name__}.note", f"{__name__}.note_later"):
            assert await report_late(hook=hook, context=CONTEXT) == LATE
    assert told == [LATE, LATE | {"async": True}]
    assert [record.getMessage() for record in caplog.records] == 3 * [
        (
            "Run scheduled__1 of nightly_rerank is late: it has not ended by 2026-11-23T10:00:00Z."
            " It goes on; look at its tasks"
        )
    ]


async def test_a_hook_that_is_not_there_fails_after_the_line_was_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The callback's state says so in Airflow; the line is in the triggerer's log all the same."""
    with pytest.raises(ModuleNotFoundError):
        await report_late(hook="nowhere.to.be.found", context=CONTEXT)
    assert len(caplog.records) == 1


def test_no_interval_is_no_alert() -> None:
    """dag.test() of Airflow 3.3.2 fails on a DAG with a deadline: 0 leaves it out."""
    assert alert_after(timedelta(0)) is None


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"RERANK_JOBS_DEADLINE_HOURS": ""},
            (
                "[('DagRunQueuedAtDeadline', 28800.0, 'rerank_jobs.airflow.deadline.report_late',"
                " {'hook': ''})] default_pool 1 21600.0"
            ),
        ),
        (
            {
                "RERANK_JOBS_DEADLINE_HOURS": "0.5",
                "RERANK_JOBS_LATE_HOOK": "shop.page",
                "RERANK_JOBS_POOL": "rerank",
                "RERANK_JOBS_PARALLEL": "4",
                "RERANK_JOBS_WAIT_HOURS": "2",
            },
            (
                "[('DagRunQueuedAtDeadline', 1800.0, 'rerank_jobs.airflow.deadline.report_late',"
                " {'hook': 'shop.page'})] rerank 4 7200.0"
            ),
        ),
    ],
)
def test_the_environment_sets_deadline_pool_width_and_wait(
    variables: dict[str, str], said: str
) -> None:
    """Where nothing is set: eight hours, Airflow's default pool, one task at once, six hours."""
    environment = {**os.environ, **variables}
    environment = {name: value for name, value in environment.items() if value}
    file = str(find_dags_folder() / "nightly_rerank.py")
    command = [sys.executable, "-P", "-c", READ, file]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == said
