"""Rerank yesterday's partition every night: plan, score its shards in parallel, publish."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, CronPartitionTimetable, Param

from rerank_jobs.airflow import rerank_task_group

HOME = os.environ.get("AIRFLOW_HOME", "~/airflow")
JOB_FILE = os.environ.get("RERANK_JOBS_NIGHTLY", f"{HOME}/jobs/nightly.yaml")

DOC = """
### Nightly rerank

Scores yesterday's partition of a query-candidate table with a rerank endpoint and publishes it
reordered. The job file (parameter `job`, by default the environment variable
`RERANK_JOBS_NIGHTLY`) names input, output, endpoint and budget.

- **plan** prices the partition and freezes the plan. Over budget: it fails and sends nothing.
- **score** runs once per shard. A retry goes on from the last sealed reply.
- **publish** makes the new generation visible at once, or not at all.

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
        "job": Param(JOB_FILE, type="string", minLength=1, description="path of the job file"),
        "partition": Param(
            None,
            type=["null", "string"],
            description="partition key, for runs that were not started for a partition",
        ),
    },
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=15),
    },
    tags=["rerank"],
):
    rerank_task_group("{{ params.job }}", outlets=[Asset("reranked")])
