"""A range of partitions: its keys, its price, what a budget admits, and what was spent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.backfill import (
    MOST_PARTITIONS,
    PartitionPrice,
    RangePrice,
    admit_partition,
    choose_budget,
    count_spent,
    list_keys,
    price_range,
    show_price,
)
from rerank_jobs.config import Job
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.errors import JobError
from rerank_jobs.job import open_roots, run_partition
from rerank_jobs.plan.frozen import plan_name
from tests.builders import make_job, make_rows, write_rows

USD = 0.001
DAYS = ("2026-11-13", "2026-11-12", "2026-11-11")


def make_days(folder: Path, days: tuple[str, ...] = DAYS, **parts: Any) -> Job:
    """Write days of 20 queries, 10 of them those of the day before; return their job."""
    rows = make_rows(10 * (len(days) + 1), 3)
    rows.sort(key=lambda row: str(row["query_id"]))
    for number, day in enumerate(reversed(days)):
        write_rows(folder / "in" / day / "part.parquet", rows[30 * number : 30 * (number + 2)])
    endpoint = {"url": "embedded", "usd_per_search_unit": USD}
    job = make_job(folder, **({"endpoint": endpoint} | parts))
    path = job.input.model_copy(update={"path": "in/{partition}"})
    partition = job.partition.model_copy(update={"template": "{key}"})
    return job.model_copy(update={"input": path, "partition": partition})
