"""Rerank each partition of a search log when it is there, and summarise what its clicks say."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, PartitionedAssetTimetable

from rerank_jobs.airflow import rerank_task_group, summarize_searches
from rerank_jobs.airflow.defaults import RETRIES, text_param

# Read when the file is parsed: set them where the scheduler's DAG processor and the workers run.
HOME = os.environ.get("AIRFLOW_HOME", "~/airflow")
JOB_FILE = os.environ.get("RERANK_JOBS_SEARCH_LOG", f"{HOME}/jobs/search_log.yaml")
LOG_ASSET = os.environ.get("RERANK_JOBS_SEARCH_LOG_ASSET", "search_log")
PARALLEL = int(os.environ.get("RERANK_JOBS_PARALLEL", "1"))
POOL = os.environ.get("RERANK_JOBS_POOL", "default_pool")

DOC = """
### Search log enrichment

Follows the asset of a search log, partition by partition: whoever writes the log updates the asset
`search_log` (another name: the variable `RERANK_JOBS_SEARCH_LOG_ASSET`) in a run for a partition,
and this DAG runs for that very partition. The job file (parameter `job`, by default the variable
`RERANK_JOBS_SEARCH_LOG`) has the layout `search_log`.

- **plan, score, publish**: each result of each search gets a score and a rank. A query that occurs
  a thousand times is paid once.
- **summarize** writes a table of searches and a row for the day: where the clicked results stood,
  and where they would have stood. Its figures are the extra of the asset `search_log_enriched`.

Running it again for a published partition sends nothing and changes nothing. Another partition:
trigger it with a partition key, or with the parameter `partition`.
"""

with DAG(
    "search_log_enrichment",
    description="Rerank a search log and summarise its clicks",
    doc_md=DOC,
    schedule=PartitionedAssetTimetable(assets=Asset(LOG_ASSET)),
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
    },
    default_args=RETRIES,
    tags=["rerank"],
):
    rerank = rerank_task_group(
        "{{ params.job }}",
        conn_id="{{ params.conn_id or '' }}",
        score_args={"pool": POOL},
        parallel=PARALLEL,
    )
    summarize_searches("{{ params.job }}", rerank, outlets=[Asset("search_log_enriched")])
