"""Rankings read from scored parts in long and list layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.errors import InputError
from rerank_jobs.report.evaluation import evaluate
from rerank_jobs.report.qrels import read_qrels
from rerank_jobs.report.rankings import (
    RankingColumns,
    rankings_from_table,
    read_lists,
    read_long,
)

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = RankingColumns(query_id="query_id", document_id="doc_id", slice_by="lang")
LONG = {
    "query_id": [1, 1, 2],
    "query": ["text"] * 3,
    "lang": ["en", "en", None],
    "doc_id": [10, 11, 10],
    "rerank_first_stage_rank": [1, 2, 1],
    "rerank_rank": [2, 1, 1],
    "rerank_status": ["scored", "reused", "single"],
}


def _write(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def _lists(rows: list[list[dict[str, Any]] | None]) -> dict[str, Any]:
    return {"query_id": list(range(len(rows))), "lang": ["en"] * len(rows), "results": rows}


def _result(document: int, before: int, after: int) -> dict[str, Any]:
    return {
        "doc_id": document,
        "text": "never loaded",
        "rerank_first_stage_rank": before,
        "rerank_rank": after,
        "rerank_status": "scored",
    }


def test_long_parts_are_read_as_one(tmp_path: Path) -> None:
    """Several parts give their rows in order, with integer ids as strings."""
    first, second = _write(tmp_path / "a.parquet", LONG), _write(tmp_path / "b.parquet", LONG)
    rankings = read_long([first, second], COLUMNS)
    assert rankings.num_rows == 6
    assert rankings["document_id"].to_pylist()[:3] == ["10", "11", "10"]
    assert rankings["group"].to_pylist()[:3] == ["1", "1", "2"]
    assert rankings.slice(0, 3).equals(rankings_from_table(pa.table(LONG), COLUMNS))


def test_no_parts_are_an_empty_table() -> None:
    """A partition without parts has no rows and the same columns."""
    assert read_long([], COLUMNS).schema == read_lists([], COLUMNS, candidates="r").schema


def test_integer_ids_meet_string_ids(tmp_path: Path) -> None:
    """A table with integer ids and a CSV of judgements join."""
    rankings = read_long([_write(tmp_path / "a.parquet", LONG)], COLUMNS)
    (tmp_path / "q.csv").write_text("query_id,doc_id,relevance\n1,11,1\n")
    result = evaluate(rankings, read_qrels(tmp_path / "q.csv"))
    assert (result.before.mrr, result.after.mrr) == (0.5, 1.0)


@pytest.mark.parametrize("missing", ["query_id", "doc_id", "lang", "rerank_rank", "rerank_status"])
def test_missing_columns_are_named(tmp_path: Path, missing: str) -> None:
    """A part without a column is an error that names file and column."""
    columns = {name: values for name, values in LONG.items() if name != missing}
    path = _write(tmp_path / "a.parquet", columns)
    with pytest.raises(InputError, match=rf"a\.parquet has no column {missing}"):
        read_long([path], COLUMNS)


def test_null_ranks_are_refused(tmp_path: Path) -> None:
    """A row without a rank is an error and not a row at the end."""
    path = _write(tmp_path / "a.parquet", {**LONG, "rerank_rank": [None, 1, 1]})
    with pytest.raises(InputError, match="column rerank_rank has nulls"):
        read_long([path], COLUMNS)


def test_ranks_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """A text column in the place of a rank is an error that names it."""
    path = _write(tmp_path / "a.parquet", {**LONG, "rerank_rank": ["first", "x", "y"]})
    with pytest.raises(InputError, match="column rerank_rank cannot be read as int64"):
        read_long([path], COLUMNS)


def test_unreadable_parts_are_named(tmp_path: Path) -> None:
    """A file that is no Parquet is a typed error."""
    (tmp_path / "a.parquet").write_text("nothing")
    with pytest.raises(InputError, match=r"a\.parquet is not readable as Parquet"):
        read_long([tmp_path / "a.parquet"], COLUMNS)


def test_each_row_of_a_list_layout_is_a_group(tmp_path: Path) -> None:
    """Rows are numbered over all parts and row groups; empty and null lists give no row."""
    rows = [[_result(10, 1, 2), _result(11, 2, 1)], [], None, [_result(10, 1, 1)]]
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(_lists(rows)), path, row_group_size=2)
    rankings = read_lists([path, path], COLUMNS, candidates="results")
    assert rankings["group"].to_pylist() == ["0", "0", "3", "4", "4", "7"]
    assert rankings["query_id"].to_pylist() == ["0", "0", "3"] * 2
    assert rankings["after_rank"].to_pylist() == [2, 1, 1] * 2
    assert rankings["slice"].to_pylist() == ["en"] * 6


def test_a_query_logged_twice_is_measured_twice(tmp_path: Path) -> None:
    """Two searches with one query_id are two groups against the same judgements."""
    table = _lists([[_result(10, 1, 2), _result(11, 2, 1)], [_result(11, 1, 1)]])
    path = _write(tmp_path / "log.parquet", {**table, "query_id": [5, 5]})
    (tmp_path / "q.txt").write_text("5 0 11 1\n")
    rankings = read_lists([path], COLUMNS, candidates="results")
    result = evaluate(rankings, read_qrels(tmp_path / "q.txt"))
    assert result.queries_measured == 2
    assert (result.before.mrr, result.after.mrr) == (0.75, 1.0)


@pytest.mark.parametrize(
    ("candidates", "columns", "message"),
    [
        ("hits", COLUMNS, "no column hits"),
        ("lang", COLUMNS, "column lang is string, not a list of structs"),
        ("results", RankingColumns("query_id", "docno"), "column results have no field docno"),
    ],
)
def test_wrong_list_columns_are_named(
    tmp_path: Path, candidates: str, columns: RankingColumns, message: str
) -> None:
    """A list column or field that is not there is an error that names it."""
    path = _write(tmp_path / "log.parquet", _lists([[_result(10, 1, 1)]]))
    with pytest.raises(InputError, match=message):
        read_lists([path], columns, candidates=candidates)


def test_both_layouts_of_the_session_log_agree(shared_data: Path) -> None:
    """The long and the logged form of the same real rankings measure the same first stage."""
    folder = shared_data / "trec_session_log"
    qrels = read_qrels(folder / "qrels.parquet")
    long = read_long(
        [folder / "candidates.parquet"],
        RankingColumns("query_id", "doc_id", "first_stage_rank", "first_stage_rank", status=None),
    )
    logged = read_lists(
        [folder / "search_log.parquet"],
        RankingColumns("query_id", "doc_id", "position", "position", status=None),
        candidates="results",
    )
    first, second = evaluate(long, qrels), evaluate(logged, qrels)
    assert first.before == second.before
    assert first.before.ndcg_at_10 == pytest.approx(0.605, abs=0.001)
