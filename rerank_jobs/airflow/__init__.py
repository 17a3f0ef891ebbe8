"""Airflow's side of rerank-jobs: what a DAG of your own needs.

Importing this package imports nothing of Airflow and nothing heavy: names are loaded when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_jobs.airflow.enrichment import summarize_searches
    from rerank_jobs.airflow.task_group import rerank_task_group

__all__ = ["rerank_task_group", "summarize_searches"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name == "rerank_task_group":
        from rerank_jobs.airflow.task_group import rerank_task_group

        return rerank_task_group
    if name == "summarize_searches":
        from rerank_jobs.airflow.enrichment import summarize_searches

        return summarize_searches
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
