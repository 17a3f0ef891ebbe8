"""Airflow's side of rerank-jobs: a task group and a sensor for a DAG of your own.

Importing this package imports nothing of Airflow and nothing heavy: names are loaded when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_jobs.airflow.sensor import PartitionSensor
    from rerank_jobs.airflow.task_group import rerank_task_group

__all__ = ["PartitionSensor", "rerank_task_group"]

_PLACES = {"PartitionSensor": "sensor", "rerank_task_group": "task_group"}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
