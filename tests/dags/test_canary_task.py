"""The canary as a task: it keeps a reading a run, and fails or warns when one has moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from rerank_jobs.airflow.canary import canary_task
from rerank_jobs.job_file import load_job
from rerank_jobs.storage import open_store, read_json, seal_json
from tests.dags.conftest import Table, tasks_of

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags


def pull(run: DagRun, task: str) -> dict[str, Any]:
    instance = run.get_task_instance(task)
    assert instance is not None
    value: dict[str, Any] = instance.xcom_pull(task_ids=task)
    return value


@pytest.mark.slow
def test_a_canary_that_moved_warns_or_fails_for_good(
    make_table: Callable[..., Table],
    run_dag: Callable[..., DagRun],
    airflow_log: Callable[[], str],
) -> None:
    """Unmoved both succeed; moved, one warns and the shipped DAG fails at its first try."""
    table = make_table("2026-11-22")
    job = str(table.job_file)
    first = pull(run_dag("own_canary", job=job), "warned")
    second = pull(run_dag("model_canary", job=job), "canary")
    assert (first["reading"], first["reference"], first["moved"]) == (1, 1, False)
    assert (second["reading"], second["reference"], second["moved"]) == (2, 1, False)
    assert len(first["scores"]) == 20

    state = open_store(load_job(table.job_file).state_root)
    reference = state.entries("canary")[0].name
    record = read_json(state, reference)
    record["reading"]["models"] = ["embedded/elder"]
    state.replace(reference, seal_json(record))
    airflow_log()
    warned = run_dag("own_canary", job=job)
    assert tasks_of(warned) == {("warned", -1): ("success", 1)}
    assert pull(warned, "warned")["moved"]
    failed = run_dag("model_canary", job=job)
    assert tasks_of(failed) == {("canary", -1): ("failed", 1)}
    assert airflow_log().count("model embedded/elder became embedded/") >= 2


def test_the_reaction_must_be_one_that_is_known() -> None:
    """A misspelt ``on_moved`` is an error when the DAG file is parsed, not in the night."""
    with pytest.raises(ValueError, match="'fail' or 'warn'"):
        canary_task("/jobs/shop.yaml", on_moved="ignore")  # type: ignore[arg-type]
