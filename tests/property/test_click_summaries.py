"""Summaries of random small logs against figures that are worked out one search at a time."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.report.days import add_up_searches, summarise_day
from rerank_jobs.report.searches import SearchColumns, summarise_searches
from tests.click_oracle import Row, describe_day, describe_search

ITEM = pa.struct(
    [
        ("position", pa.float64()),
        ("clicked", pa.float64()),
        ("rerank_rank", pa.int32()),
        ("rerank_first_stage_rank", pa.int32()),
        ("rerank_status", pa.string()),
    ]
)
LOG = pa.schema({"search_id": pa.int64(), "results": pa.list_(ITEM)})

MANIFEST: dict[str, Any] = {
    "partition": "p",
    "generation": 3,
    "created_at": "2026-11-22T02:00:00+00:00",
    "endpoint": {"url": "embedded", "model": "m"},
    "promise": {"rows_rejected": 1, "candidates_rejected": 2, "candidates_cut": 3},
    "spent": {"requests": 4, "search_units": 5, "cost_usd": 0.006},
}


@st.composite
def draw_results(draw: st.DrawFn) -> list[Row] | None:
    """Return a published list: both orders are of 1..n, all else is as a log may have it."""
    size = draw(st.integers(0, 6))
    if size == 0:
        return draw(st.sampled_from([None, []]))
    ranks, first_stage = draw(st.permutations(range(size))), draw(st.permutations(range(size)))
    positions = st.one_of(st.none(), st.just(math.nan), st.integers(-1, 4).map(float))
    clicks = st.sampled_from([None, 0.0, 0.0, 1.0, 3.0, -1.0, math.nan])
    statuses = st.sampled_from(["scored", "reused", "failed"])
    return [
        {
            "position": draw(positions),
            "clicked": draw(clicks),
            "rerank_rank": rank + 1,
            "rerank_first_stage_rank": first + 1,
            "rerank_status": draw(statuses) if size > 1 else "single",
        }
        for rank, first in zip(ranks, first_stage, strict=True)
    ]


@given(st.lists(draw_results(), max_size=8), st.sampled_from(["position", None]))
def test_summaries_are_those_of_one_search_at_a_time(
    log: list[list[Row] | None], position: str | None
) -> None:
    """Each search's row and the day's figures equal what plain Python finds, whatever the log."""
    rows = [{"search_id": number, "results": one} for number, one in enumerate(log)]
    batch = pa.RecordBatch.from_pylist(rows, schema=LOG)
    columns = SearchColumns("results", "clicked", position=position, search_id="search_id")
    wanted = [describe_search(one or [], position) for one in log]

    table = summarise_searches(batch, columns)
    # In two parts, as two batches of a larger log would be.
    totals = add_up_searches(table.slice(0, 3)).plus(add_up_searches(table.slice(3)))
    day = summarise_day(totals, MANIFEST, queries=7, clicks_rejected=8)

    found = table.to_pylist()
    assert [one["search_id"] for one in found] == [str(number) for number in range(len(log))]
    assert [{name: one[name] for name in wanted[0]} for one in found] == wanted
    for name, value in describe_day(wanted).items():
        assert day[name] == (value if value is None else pytest.approx(value, abs=1e-9)), name
    assert (day["queries"], day["clicks_rejected"], day["cost_usd"]) == (7, 8, 0.006)
