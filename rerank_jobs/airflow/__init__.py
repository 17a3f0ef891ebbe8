"""Airflow's side of rerank-jobs: what a DAG of your own needs.

Importing this package imports nothing of Airflow and nothing heavy: names are loaded when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_jobs.airflow.canary import canary_task
    from rerank_jobs.airflow.enrichment import summarize_searches
    from rerank_jobs.airflow.sensor import PartitionSensor
    from rerank_jobs.airflow.task_group import rerank_task_group

__all__ = ["PartitionSensor", "canary_task", "rerank_task_group", "summarize_searches"]

_PLACES = {
    "PartitionSensor": "sensor",
    "canary_task": "canary",
    "rerank_task_group": "task_group",
    "summarize_searches": "enrichment",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
