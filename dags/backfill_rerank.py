"""Rerank a range of partitions, newest first, within one budget and after approval."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, Param

from rerank_jobs.airflow.backfill import add_partition_tasks, add_range_tasks
from rerank_jobs.airflow.defaults import RETRIES

HOME = os.environ.get("AIRFLOW_HOME", "~/airflow")
JOB_FILE = os.environ.get("RERANK_JOBS_NIGHTLY", f"{HOME}/jobs/nightly.yaml")
PARALLEL = int(os.environ.get("RERANK_JOBS_PARALLEL", "1"))
POOL = os.environ.get("RERANK_JOBS_POOL", "default_pool")

DOC = """
### Backfill

Prices a range of partitions, asks above a threshold, and reranks them newest first, one at a time,
as runs of `backfill_rerank_partition`. A partition is begun only if its whole price fits what is
left of `budget_usd`. The first that does not fit ends it: run again with a new budget, and it goes
on there. Published partitions cost nothing.

- **price** plans every partition, and prices once what several of them share.
- **approve** waits for a person if the run may spend more than `approve_above_usd`.
- **start**, **wait** queue one run a partition and wait for all; no slot is held.
- **summary** names what was published, left and failed, and what was spent.

To stop it, mark this run as failed: queued partitions end without sending.
"""

PARTITION_DOC = """
### One partition of a backfill

Started by `backfill_rerank`, one at a time. **admit** lets it begin if its whole price fits what is
left of the budget; else the rest is skipped.
"""

DAY = r"^\d{4}-\d{2}-\d{2}$"
PARAMS = {
    "job": Param(JOB_FILE, type="string", minLength=1, description="path of the job file"),
    "conn_id": Param("", type="string", description="connection that holds the API key"),
}

with DAG(
    "backfill_rerank",
    description="Rerank a range of partitions within one budget",
    doc_md=DOC,
    schedule=None,
    params={
        **PARAMS,
        "from": Param(None, type=["null", "string"], pattern=DAY, description="first day"),
        "to": Param(None, type=["null", "string"], pattern=DAY, description="last day, included"),
        "key_format": Param(
            "%Y-%m-%d", type="string", description="a day's key, as strftime has it"
        ),
        "partitions": Param(
            None,
            type=["null", "array"],
            items={"type": "string"},
            description="keys in the order to run, instead of days",
        ),
        "budget_usd": Param(
            None,
            type=["null", "number"],
            minimum=0,
            description="the most that this run may spend; else budget.max_usd of the job file",
        ),
        "approve_above_usd": Param(
            10.0, type="number", minimum=0, description="ask if the run may spend more than this"
        ),
    },
    default_args=RETRIES,
    tags=["rerank"],
):
    add_range_tasks("backfill_rerank_partition")

with DAG(
    "backfill_rerank_partition",
    description="One partition of a backfill; started by backfill_rerank",
    doc_md=PARTITION_DOC,
    schedule=None,
    max_active_runs=1,  # one partition at a time
    is_paused_upon_creation=False,
    params={
        **PARAMS,
        "partition": Param("", type="string"),
        "backfill": Param({}, type="object", description="filled in by backfill_rerank"),
    },
    default_args=RETRIES,
    tags=["rerank"],
):
    add_partition_tasks([Asset("reranked")], {"pool": POOL}, PARALLEL)
