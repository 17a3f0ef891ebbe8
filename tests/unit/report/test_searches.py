"""One search as one row: which results count as clicked, and in which order they were shown."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import InputError
from rerank_jobs.report.searches import SearchColumns, summarise_searches

RESULTS = pa.list_(
    pa.struct(
        [
            ("clicked", pa.bool_()),
            ("rerank_rank", pa.int32()),
            ("rerank_first_stage_rank", pa.int32()),
            ("rerank_status", pa.string()),
        ]
    )
)

COLUMNS = SearchColumns("results", "clicked", position="position")


def summarise(
    positions: list[Any], clicks: list[Any], ranks: list[int], columns: SearchColumns = COLUMNS
) -> dict[str, Any]:
    """Summarise one search whose results are given in first-stage order."""
    results = [
        {
            "position": position,
            "clicked": click,
            "rerank_rank": rank,
            "rerank_first_stage_rank": number,
            "rerank_status": "scored",
        }
        for number, (position, click, rank) in enumerate(
            zip(positions, clicks, ranks, strict=True), start=1
        )
    ]
    batch = pa.RecordBatch.from_pylist([{"results": results}])
    (found,) = summarise_searches(batch, columns).to_pylist()
    return dict(found)


def test_several_clicks_count_by_the_one_that_stands_highest() -> None:
    """Before and after may have different clicked results on top; ranks stand side by side."""
    found = summarise([1, 2, 3, 4], [False, True, False, True], [1, 4, 3, 2])
    assert (found["click_rr_before"], found["click_rr_after"]) == (1 / 2, 1 / 2)
    assert (found["clicked_ranks_before"], found["clicked_ranks_after"]) == ([2, 4], [4, 2])
    assert (found["clicks"], found["clicked_movement"]) == (2, 0.0)
    assert (found["top1_changed"], found["mean_abs_movement"]) == (False, 1.0)


@pytest.mark.parametrize(
    "positions",
    [[1, 2, 3], [0, 1, 2], [11, 12, 13], [1, 5, 90], [1.5, 2.5, 3.5], [1, 2, None], [1, 1, 1]],
    ids=["from 1", "from 0", "second page", "gaps", "fractions", "missing", "equal"],
)
def test_only_the_order_of_positions_counts(positions: list[Any]) -> None:
    """Wherever positions start and whatever is missing, results are numbered from 1 as shown."""
    found = summarise(positions, [False, True, False], [3, 1, 2])
    assert (found["clicked_ranks_before"], found["clicked_ranks_after"]) == ([2], [1])


def test_positions_go_before_the_first_stage() -> None:
    """What the user saw counts where a rank of the first stage is another order."""
    found = summarise([3, 1, 2], [True, False, False], [1, 2, 3])
    assert found["clicked_ranks_before"] == [3]
    without = SearchColumns("results", "clicked")
    assert summarise([3, 1, 2], [True, False, False], [1, 2, 3], without)[
        "clicked_ranks_before"
    ] == [1]


@pytest.mark.parametrize(
    ("values", "clicks"),
    [
        ([True, False, None], 1),
        ([2, 0, -1], 1),
        ([0.5, float("nan"), 0.0], 1),
        ([Decimal("1.0"), Decimal("0.0"), None], 1),
        ([None, None, None], 0),
    ],
    ids=["booleans", "counts", "numbers", "decimals", "nothing logged"],
)
def test_a_click_is_true_or_above_zero(values: list[Any], clicks: int) -> None:
    """Null, NaN, 0 and what is below 0 are no click."""
    if values == [None, None, None]:
        values = [False, None, None]
    assert summarise([1, 2, 3], values, [1, 2, 3])["clicks"] == clicks


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (date(2026, 11, 22), pa.date32(), datetime(2026, 11, 22, tzinfo=UTC)),
        (
            datetime(2026, 11, 22, 10, 2),  # noqa: DTZ001 - a column without a time zone
            pa.timestamp("ms"),
            datetime(2026, 11, 22, 10, 2, tzinfo=UTC),
        ),
        (
            datetime(2026, 11, 22, 9, 2, tzinfo=UTC),
            pa.timestamp("ns", tz="Europe/Rome"),
            datetime(2026, 11, 22, 9, 2, tzinfo=UTC),
        ),
        (None, pa.date32(), None),
    ],
    ids=["date", "without zone", "with zone", "null"],
)
def test_times_are_instants_of_utc(value: Any, kind: Any, expected: Any) -> None:
    """A date is its midnight, what names no zone is UTC, another zone's instant stays its own."""
    assert read_time(pa.array([value], kind)) == expected


def test_a_time_that_is_text_is_refused() -> None:
    """The line names the column, its type and what to do."""
    with pytest.raises(InputError, match=r"'at' \(enrichment.time .* is string, but must be a"):
        read_time(pa.array(["10:02"]))


def read_time(values: pa.Array[Any]) -> Any:
    results = pa.array([[]], RESULTS)
    batch = pa.RecordBatch.from_arrays([results, values], names=["results", "at"])
    columns = SearchColumns("results", "clicked", time="at")
    return summarise_searches(batch, columns).to_pylist()[0]["searched_at"]


def test_a_summary_has_the_types_of_its_contract() -> None:
    """An empty log gives no row and every column of the contract but those that name the file."""
    empty = pa.RecordBatch.from_pylist([], schema=pa.schema({"results": RESULTS}))
    table = summarise_searches(empty, SearchColumns("results", "clicked"))
    assert table.num_rows == 0
    assert list(table.schema) == list(arrow_schema("search_summary"))[4:]
