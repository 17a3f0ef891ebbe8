"""A partition of a search log as one row: its searches, clicks, movement and price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.config import EMBEDDED
from rerank_jobs.contracts import arrow_schema

__all__ = ["DayTotals", "add_up_searches", "make_day_table", "summarise_day"]

DECIMALS = 9
"""Of means and shares: the last digits of a sum depend on the order of adding."""


@dataclass(frozen=True, slots=True)
class DayTotals:
    """Counts over searches, and sums of their figures; by ``plus`` those of several tables.

    ``choice`` are searches with two results or more; ``improved``, ``worsened`` and ``same`` are
    searches with clicks, by what became of their reciprocal rank.
    """

    searches: int = 0
    with_results: int = 0
    with_choice: int = 0
    with_clicks: int = 0
    results: int = 0
    scored: int = 0
    reused: int = 0
    single: int = 0
    failed: int = 0
    clicks: int = 0
    clicks_failed: int = 0
    improved: int = 0
    worsened: int = 0
    same: int = 0
    top1_changed: int = 0
    click_rr_before: float = 0.0
    click_rr_after: float = 0.0
    abs_movement: float = 0.0

    def plus(self, other: DayTotals) -> DayTotals:
        """Return both together."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return DayTotals(*(one + another for one, another in pairs))


def add_up_searches(table: pa.Table) -> DayTotals:
    """Add up rows of the contract ``search_summary``."""
    before, after = table.column("click_rr_before"), table.column("click_rr_after")
    summed = ("results", "scored", "reused", "single", "failed", "clicks", "clicks_failed")
    return DayTotals(
        searches=table.num_rows,
        with_results=_add_up(pc.greater(table.column("results"), pa.scalar(0))),
        with_choice=_add_up(pc.greater(table.column("results"), pa.scalar(1))),
        with_clicks=_add_up(pc.greater(table.column("clicks"), pa.scalar(0))),
        **{name: _add_up(table.column(name)) for name in summed},
        improved=_add_up(pc.greater(after, before)),
        worsened=_add_up(pc.less(after, before)),
        same=_add_up(pc.equal(after, before)),
        top1_changed=_add_up(table.column("top1_changed")),
        click_rr_before=_add_up(before),
        click_rr_after=_add_up(after),
        abs_movement=_add_up(table.column("mean_abs_movement")),
    )


def summarise_day(
    totals: DayTotals, manifest: Mapping[str, Any], *, queries: int, clicks_rejected: int
) -> dict[str, Any]:
    """Return the row of the contract ``day_summary`` for the generation of ``manifest``.

    A mean or share over nothing is ``None``.
    """
    promise, spent, endpoint = manifest["promise"], manifest["spent"], manifest["endpoint"]
    counts = asdict(totals)
    clicked, choice = totals.with_clicks, totals.with_choice
    row = {
        "partition": manifest["partition"],
        "generation": manifest["generation"],
        "published_at": datetime.fromisoformat(manifest["created_at"]),
        "model": EMBEDDED if endpoint["url"] == EMBEDDED else endpoint["model"],
        "searches_rejected": promise["rows_rejected"],
        "searches_with_results": totals.with_results,
        "searches_with_choice": choice,
        "searches_with_clicks": clicked,
        "queries": queries,
        "results_rejected": promise["candidates_rejected"],
        "results_cut": promise["candidates_cut"],
        "clicks_rejected": clicks_rejected,
        "click_mrr_before": _divide(totals.click_rr_before, clicked),
        "click_mrr_after": _divide(totals.click_rr_after, clicked),
        "improved_share": _divide(totals.improved, clicked),
        "worsened_share": _divide(totals.worsened, clicked),
        "same_share": _divide(totals.same, clicked),
        "mean_abs_movement": _divide(totals.abs_movement, choice),
        "top1_changed_share": _divide(totals.top1_changed, choice),
        "requests": spent["requests"],
        "search_units": spent["search_units"],
        "cost_usd": round(spent["cost_usd"], DECIMALS),
    }
    return {name: row.get(name, counts.get(name)) for name in arrow_schema("day_summary").names}


def make_day_table(day: Mapping[str, Any]) -> pa.Table:
    """Return a day's row as a table of the contract ``day_summary``."""
    return pa.Table.from_pylist([dict(day)], schema=arrow_schema("day_summary"))


def _add_up(column: Any) -> Any:
    return pc.sum(column).as_py() or 0


def _divide(total: float, count: int) -> float | None:
    return round(total / count, DECIMALS) if count else None
