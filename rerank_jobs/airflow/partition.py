"""Which partition a run is for."""

from __future__ import annotations

from typing import Any

from rerank_jobs.places import ALL

__all__ = ["find_partition"]


def find_partition(context: Any) -> str:
    """Return the run's partition key, else its parameter, else its logical date, else ``_all``."""
    run, params = context["dag_run"], context["params"]
    key = run.partition_key or params.get("partition") or context.get("ds")
    return str(key or ALL)
