"""Rerank yesterday's partition every night: wait, plan, score its shards, publish, report."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, CronPartitionTimetable

from rerank_jobs.airflow import PartitionSensor, rerank_task_group
from rerank_jobs.airflow.deadline import alert_after
from rerank_jobs.airflow.defaults import RETRIES, text_param

# Read when the file is parsed: set them where the scheduler's DAG processor and the workers run.
HOME = os.environ.get("AIRFLOW_HOME", "~/airflow")
JOB_FILE = os.environ.get("RERANK_JOBS_NIGHTLY", f"{HOME}/jobs/nightly.yaml")
PARALLEL = int(os.environ.get("RERANK_JOBS_PARALLEL", "1"))
POOL = os.environ.get("RERANK_JOBS_POOL", "default_pool")
WAIT = timedelta(hours=float(os.environ.get("RERANK_JOBS_WAIT_HOURS", "6")))
DEADLINE = timedelta(hours=float(os.environ.get("RERANK_JOBS_DEADLINE_HOURS", "8")))
LATE_HOOK = os.environ.get("RERANK_JOBS_LATE_HOOK", "")

DOC = """
### Nightly rerank

Scores yesterday's partition of a query-candidate table with a rerank endpoint and publishes it
reordered. The job file (parameter `job`, by default the environment variable
`RERANK_JOBS_NIGHTLY`) names input, output, endpoint and budget.

- **wait_for_input** looks every minute for the partition, without a slot.
- **plan** prices the partition and freezes the plan. Over budget: it fails and sends nothing.
- **score** runs once per shard. A retry goes on from the last sealed reply.
- **publish** makes the new generation visible at once, or not at all.
- **report** logs rows, dollars, use of the rate limit, and how the ranking moved.

Running it again for a published partition sends nothing. Another partition: trigger it with a
partition key, or with the parameter `partition`.
"""

with DAG(
    "nightly_rerank",
    description="Rerank yesterday's partition",
    doc_md=DOC,
    schedule=CronPartitionTimetable(
        "0 2 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"
    ),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={
        "job": text_param(JOB_FILE, "path of the job file"),
        "partition": text_param(
            None, "partition key, for runs that were not started for a partition"
        ),
        "conn_id": text_param(
            None, "connection that holds the API key; empty: the worker's environment"
        ),
        "ready_file": text_param(
            None, "wait for this file too, from the partition's folder: _SUCCESS"
        ),
        "qrels": text_param(None, "judgements, from the job file's folder, for nDCG in the report"),
    },
    default_args=RETRIES,
    deadline=alert_after(DEADLINE, LATE_HOOK),
    tags=["rerank"],
):
    rerank = rerank_task_group(
        "{{ params.job }}",
        conn_id="{{ params.conn_id or '' }}",
        outlets=[Asset("reranked")],
        score_args={"pool": POOL},
        parallel=PARALLEL,
        qrels="{{ params.qrels or '' }}",
    )
    if WAIT:
        wait_for_input = PartitionSensor(
            task_id="wait_for_input",
            job="{{ params.job }}",
            ready_file="{{ params.ready_file or '' }}",
            timeout=WAIT,
        )
        wait_for_input >> rerank
