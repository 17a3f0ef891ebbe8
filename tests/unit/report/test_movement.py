"""Movement on tables small enough to count by eye."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from rerank_jobs.errors import InputError
from rerank_jobs.report.movement import Movement, measure_movement

COLUMNS = ["query_id", "rerank_first_stage_rank", "rerank_rank", "rerank_status"]


def _table(rows: list[tuple[str, int, int, str]]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], names=COLUMNS)


def test_movement_of_a_hand_made_table() -> None:
    """One query turned over, one as it was, one with a single document: each figure by hand."""
    table = _table(
        [
            ("turned", 1, 3, "failed"),
            ("turned", 2, 2, "scored"),
            ("turned", 3, 1, "scored"),
            ("kept", 1, 1, "scored"),
            ("kept", 2, 2, "reused"),
            ("alone", 1, 1, "single"),
        ]
    )
    assert measure_movement(table) == Movement(
        groups=3,
        groups_ranked=2,
        documents=6,
        documents_failed=1,
        top_1_changed=0.5,
        reordered=0.5,
        mean_abs_delta=4 / 5,
        overlap_at_10=1.0,
    )


def test_gaps_in_first_stage_ranks_are_no_movement() -> None:
    """Ranks 1, 4, 9 in the same order as 1, 2, 3 have not moved."""
    rows = [("q", before, at, "scored") for at, before in enumerate((1, 4, 9), start=1)]
    assert measure_movement(_table(rows)).mean_abs_delta == 0.0


def test_overlap_counts_the_first_ten() -> None:
    """Of fifteen documents turned over, places 6 to 10 alone hold documents of the first ten."""
    rows = [("q", before, 16 - before, "scored") for before in range(1, 16)]
    assert measure_movement(_table(rows)).overlap_at_10 == 0.5


def test_overlap_of_a_short_list_is_of_its_length() -> None:
    """Three documents in any order overlap whole: the share is of three, not of ten."""
    rows = [("q", before, 4 - before, "scored") for before in range(1, 4)]
    assert measure_movement(_table(rows)).overlap_at_10 == 1.0


def test_datasets_and_other_column_names_work() -> None:
    """A dataset is scanned for the named columns only, odd names included."""
    table = _table([("q", 1, 2, "scored"), ("q", 2, 1, "scored")])
    renamed = table.rename_columns(['a "b"', "before", "after", "how"])
    movement = measure_movement(
        ds.dataset(renamed), group='a "b"', before_rank="before", after_rank="after", status="how"
    )
    assert movement.top_1_changed == 1.0


def test_an_empty_table_has_not_moved() -> None:
    """Without rows nothing moved, and nothing is divided by zero."""
    empty = _table([("q", 1, 1, "scored")]).slice(0, 0)
    assert measure_movement(empty) == Movement(0, 0, 0, 0, 0.0, 0.0, 0.0, 1.0)


def test_a_missing_column_is_named() -> None:
    """A table without ranks is a typed error."""
    table = _table([("q", 1, 1, "scored")]).drop_columns(["rerank_rank"])
    with pytest.raises(InputError, match="no column rerank_rank"):
        measure_movement(table)
