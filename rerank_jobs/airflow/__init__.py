"""Airflow's side of rerank-jobs: ``rerank_task_group`` and ``canary_task`` for a DAG of your own.

Importing this package imports nothing of Airflow and nothing heavy: names are loaded when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_jobs.airflow.canary import canary_task
    from rerank_jobs.airflow.task_group import rerank_task_group

__all__ = ["canary_task", "rerank_task_group"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name == "canary_task":
        from rerank_jobs.airflow.canary import canary_task

        return canary_task
    if name == "rerank_task_group":
        from rerank_jobs.airflow.task_group import rerank_task_group

        return rerank_task_group
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
