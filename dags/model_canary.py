"""Score the canary every night, to see whether the model is still the one that it was."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from rerank_jobs.airflow import canary_task

HOME = os.environ.get("AIRFLOW_HOME", "~/airflow")
JOB_FILE = os.environ.get("RERANK_JOBS_NIGHTLY", f"{HOME}/jobs/nightly.yaml")

DOC = """
### Model canary

Sends one fixed query with 20 documents (one search unit, $0.001) to the endpoint of the job file,
and compares model, provider and scores with the first reading and the last one. The run fails when
one of them moved: look at `rerank-jobs canary`, and at the docs under "The canary".
"""

with DAG(
    "model_canary",
    description="Tell when the model, its provider or its scores moved",
    doc_md=DOC,
    schedule="30 1 * * *",
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={
        "job": Param(JOB_FILE, type="string", minLength=1, description="path of the job file"),
        "conn_id": Param(
            None,
            type=["null", "string"],
            description="connection that holds the API key; empty: the worker's environment",
        ),
    },
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
    tags=["rerank"],
):
    canary_task("{{ params.job }}", conn_id="{{ params.conn_id or '' }}")
