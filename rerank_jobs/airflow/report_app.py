"""The application behind the plugin: a run's report, for those who may read that DAG's XComs.

A URL names a DAG run and a task and nothing else. Which job file and partition are read stands in
what that very task left in Airflow's database, so that no URL reads a file of its choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.models.xcom import XComModel
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse
from sqlalchemy import select

from rerank_jobs.airflow.operators import REPORT_KEY

__all__ = ["make_app"]

_MOST_JOB_BYTES = 1_000_000

_HEADERS = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline';"
    " frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app() -> FastAPI:
    """Return the application; each of its routes asks Airflow whether the user may."""
    # Its own documentation would be a route that nobody guards.
    app = FastAPI(title="Rerank reports", docs_url=None, redoc_url=None, openapi_url=None)
    guard = Depends(requires_access_dag("GET", DagAccessEntity.XCOM))
    app.get("/runs/{dag_id}/{run_id}/{task_id}", dependencies=[guard], response_class=HTMLResponse)(
        show_report
    )
    return app


def show_report(dag_id: str, run_id: str, task_id: str, session: SessionDep) -> HTMLResponse:
    """Answer with the report of what a task published; 404 and why, where there is none."""
    place = _read_place(session, dag_id, run_id, task_id)
    if place is None:
        return _tell(f"Task {task_id} of run {run_id} of {dag_id} has published nothing.")
    return _render(*place)


def _read_place(
    session: Any, dag_id: str, run_id: str, task_id: str
) -> tuple[str, str, int] | None:
    """Return job file, partition and generation, as the task left them."""
    found = session.scalar(
        select(XComModel).where(
            XComModel.dag_id == dag_id,
            XComModel.run_id == run_id,
            XComModel.task_id == task_id,
            XComModel.map_index == -1,
            XComModel.key == REPORT_KEY,
        )
    )
    value = None if found is None else XComModel.deserialize_value(found)
    if not isinstance(value, dict):
        return None
    job, partition, generation = (value.get(key) for key in ("job", "partition", "generation"))
    if isinstance(job, str) and isinstance(partition, str) and isinstance(generation, int):
        return job, partition, generation
    return None


def _render(job_file: str, partition: str, number: int) -> HTMLResponse:
    from rerank_jobs.errors import JobError, StateError
    from rerank_jobs.job_file import load_job
    from rerank_jobs.planning import open_roots
    from rerank_jobs.report.page import render_page
    from rerank_jobs.reporting import gather_figures

    # What is wrong with a file is not told: its message may quote a file that is no job file.
    unread = f"The api-server cannot read the job file {job_file}: {_ADVICE}"
    try:
        path = Path(job_file)
        if not path.is_file() or path.stat().st_size > _MOST_JOB_BYTES:  # such as /dev/zero
            return _tell(unread)
        job = load_job(path)
    except (JobError, OSError, ValueError):
        return _tell(unread)
    try:
        state = open_roots(job).state
        if not state.exists("FORMAT"):
            return _tell(f"The api-server does not see the state root {state.location}: {_ADVICE}")
        page = render_page(gather_figures(job, partition, number))
    except StateError as error:
        return _tell(f"{error}")
    except (JobError, OSError) as error:
        return _tell(f"The state root of job {job.name} cannot be read: {type(error).__name__}.")
    return HTMLResponse(page, headers=_HEADERS)


_ADVICE = "mount it there at the same path as on the workers, or run rerank-jobs report on one."


def _tell(text: str) -> HTMLResponse:
    from rerank_jobs.report.page import render_notice

    return HTMLResponse(render_notice("No report", text), status_code=404, headers=_HEADERS)
