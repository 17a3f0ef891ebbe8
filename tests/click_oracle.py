"""Figures of clicks by the shortest way there is: one search at a time, plain Python, no arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def is_clicked(value: Any) -> bool:
    """Say whether a logged value is a click."""
    return value is not None and value > 0


def rank_as_shown(results: Sequence[Row], position: str | None) -> list[int]:
    """Return the rank of each result in the order in which a user saw them."""

    def key(index: int) -> tuple[float, int]:
        shown = results[index][position] if position else None
        place = math.inf if shown is None or math.isnan(shown) else float(shown)
        return place, results[index]["rerank_first_stage_rank"]

    order = sorted(range(len(results)), key=key)
    return [order.index(index) + 1 for index in range(len(results))]


def describe_search(results: Sequence[Row], position: str | None = "position") -> Row:
    """Return the figures of one search whose results are as published."""
    before = rank_as_shown(results, position)
    after = [one["rerank_rank"] for one in results]
    pairs = sorted(
        (old, new)
        for old, new, one in zip(before, after, results, strict=True)
        if is_clicked(one["clicked"])
    )
    statuses = [one["rerank_status"] for one in results]
    moved = [abs(old - new) for old, new in zip(before, after, strict=True)]
    several, clicks = len(results) > 1, len(pairs)
    return {
        "results": len(results),
        **{name: statuses.count(name) for name in ("scored", "reused", "single", "failed")},
        "clicks": clicks,
        "clicks_failed": sum(
            one["rerank_status"] == "failed" and is_clicked(one["clicked"]) for one in results
        ),
        "click_rr_before": 1 / min(old for old, _ in pairs) if pairs else None,
        "click_rr_after": 1 / min(new for _, new in pairs) if pairs else None,
        "clicked_ranks_before": [old for old, _ in pairs],
        "clicked_ranks_after": [new for _, new in pairs],
        "clicked_movement": sum(old - new for old, new in pairs) / clicks if pairs else None,
        "mean_abs_movement": sum(moved) / len(moved) if several else None,
        "top1_changed": before.index(1) != after.index(1) if several else None,
    }


def describe_day(searches: Sequence[Row]) -> Row:
    """Return the figures of a day from those of its searches."""
    clicked = [one for one in searches if one["clicks"]]
    several = [one for one in searches if one["results"] > 1]
    changes = [one["click_rr_after"] - one["click_rr_before"] for one in clicked]
    return {
        "searches": len(searches),
        "searches_with_results": sum(one["results"] > 0 for one in searches),
        "searches_with_choice": len(several),
        "searches_with_clicks": len(clicked),
        "results": sum(one["results"] for one in searches),
        "failed": sum(one["failed"] for one in searches),
        "clicks": sum(one["clicks"] for one in searches),
        "clicks_failed": sum(one["clicks_failed"] for one in searches),
        "click_mrr_before": mean(one["click_rr_before"] for one in clicked),
        "click_mrr_after": mean(one["click_rr_after"] for one in clicked),
        "improved_share": mean(change > 0 for change in changes),
        "worsened_share": mean(change < 0 for change in changes),
        "same_share": mean(change == 0 for change in changes),
        "mean_abs_movement": mean(one["mean_abs_movement"] for one in several),
        "top1_changed_share": mean(one["top1_changed"] for one in several),
    }


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, ``None`` of nothing."""
    values = list(values)
    return math.fsum(values) / len(values) if values else None
