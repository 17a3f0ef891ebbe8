"""Airflow metrics: what scoring sends while it sends it, and what a run came to.

They go where Airflow's own go (StatsD, Datadog or OpenTelemetry), under ``rerank_jobs.``. Tags are
``dag_id`` and ``task_id``: neither partitions nor shards, of which there are ever more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk.observability import stats

from rerank_jobs.score import Progress

__all__ = ["make_counter", "record_run"]

_MICRODOLLARS = 1_000_000

_GAUGES = ("rows", "limit_utilisation", "top1_changed", "mean_abs_delta", "ndcg_after")


def make_counter(tags: Mapping[str, str]) -> Callable[[Progress, int], None]:
    """Return a sink of ``tell_progress`` that counts what is new since it was called last.

    Counters: ``requests``, ``pairs`` (passages scored), ``search_units``, ``cost_microdollars``
    (counters are whole numbers), ``throttled`` (429).
    """
    counted: dict[str, int] = {}

    def count(now: Progress, _requests: int) -> None:
        for name, value in _read_counts(now).items():
            new = value - counted.get(name, 0)
            counted[name] = value
            if new > 0:
                stats.incr(f"rerank_jobs.{name}", new, tags=dict(tags))

    return count


def _read_counts(now: Progress) -> dict[str, int]:
    return {
        "requests": now.sends,
        "pairs": now.passages_scored,
        "search_units": now.search_units,
        "cost_microdollars": round(now.cost_usd * _MICRODOLLARS),
        "throttled": now.throttled,
    }


def record_run(
    figures: Mapping[str, Any], lasted: timedelta | None, tags: Mapping[str, str]
) -> None:
    """Set gauges to a run's figures, as far as it has them, and time it.

    Gauges: ``run.rows``, ``run.limit_utilisation`` (0 to 1), ``run.top1_changed`` (0 to 1),
    ``run.mean_abs_delta`` (places), ``run.ndcg_after``. Timing: ``run.duration``.
    """
    for name in _GAUGES:
        if figures.get(name) is not None:
            stats.gauge(f"rerank_jobs.run.{name}", figures[name], tags=dict(tags))
    if lasted is not None:
        stats.timing("rerank_jobs.run.duration", lasted, tags=dict(tags))
