"""What a run sent, paid and wasted, as JSON values and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rerank_jobs.dollars import show_usd
from rerank_jobs.model import ScoreTotals
from rerank_jobs.score import read_percentile

__all__ = ["describe_sending", "list_sending"]

PERCENTILES = (50, 95, 99)


def describe_sending(totals: ScoreTotals) -> dict[str, Any]:
    """Return the figures of a run's sends; dollars are rounded to a millionth."""
    utilisation = totals.utilisation
    latencies = {
        f"p{percent}": read_percentile(totals.latencies, percent / 100) for percent in PERCENTILES
    }
    return {
        "requests": totals.requests,
        "replies": totals.replies,
        "search_units": totals.search_units,
        "planned_units": totals.planned_units,
        "drift_units": totals.search_units - totals.planned_units,
        "drift_by_script": dict(_drifts(totals)),
        "cost_usd": round(totals.cost_usd, 6),
        "unknown_usd": round(totals.unknown_usd, 6),
        "wasted_usd": round(totals.wasted_usd, 6),
        "passages_scored": totals.passages_scored,
        "passages_failed": totals.passages_failed,
        "throttled": totals.throttled,
        "retries": totals.retries,
        "lost": totals.lost,
        "malformed": totals.malformed,
        "refused": totals.refused,
        "limit_utilisation": None if utilisation is None else round(utilisation, 4),
        "latency_seconds": {
            name: None if value is None else round(value, 4) for name, value in latencies.items()
        },
    }


def list_sending(totals: ScoreTotals) -> Iterator[str]:
    """Yield lines on what a run sent: trouble and waste only where there was some."""
    if totals.requests == 0:
        return
    trouble = (
        (totals.retries, "sent again"),
        (totals.throttled, "throttled (429)"),
        (totals.lost, "lost (timeouts, broken connections)"),
        (totals.malformed, "with a reply that could not be used"),
        (totals.refused, "refused for their content"),
    )
    counts = ", ".join(f"{count:,} {name}" for count, name in trouble if count)
    if counts:
        yield f"Trouble: {counts}"
    if totals.wasted_usd or totals.unknown_usd:
        yield (
            f"Waste: {show_usd(totals.wasted_usd)} paid for replies that could not be used,"
            f" at most {show_usd(totals.unknown_usd)} for sends of unknown fate"
        )
    latencies = [
        f"p{percent} {value:.2f} s"
        for percent in PERCENTILES
        if (value := read_percentile(totals.latencies, percent / 100)) is not None
    ]
    utilisation = totals.utilisation
    used = "" if utilisation is None else f"; {utilisation:.1%} of the rate limit used"
    if latencies:
        yield f"Latency: {', '.join(latencies)}{used}"
    drifts = [f"{script or 'other'} {units:+,}" for script, units in _drifts(totals)]
    if drifts:
        yield (
            f"Units: {totals.search_units - totals.planned_units:+,} against the plan"
            f" ({', '.join(drifts)})"
        )


def _drifts(totals: ScoreTotals) -> list[tuple[str, int]]:
    """Return by script how the reported units differ from the planned, where they do."""
    planned, reported = totals.planned_by_script, totals.reported_by_script
    drifts = [(script, reported.get(script) - units) for script, units in planned.counts]
    return [(script, drift) for script, drift in drifts if drift]
