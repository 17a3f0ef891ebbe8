"""Bad rows: put aside with their reason, counted, every row conserved; or refused as a whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.unit.cli.kit import (
    LISTS,
    QUERY_CANARY,
    Row,
    call,
    call_json,
    make_rows,
    merge,
    nest,
    read_table,
    set_up,
    write_job,
    write_table,
)

Capture = pytest.CaptureFixture[str]

BLANKS = ("", "  \t\n", "\u00a0\u2003\u3000", "\ufeff", "\u2028\u2029", "\x1c\x85")


def change(rows: list[Row], number: int, **values: Any) -> None:
    """Change one row in place."""
    rows[number] = {**rows[number], **values}


def check_conservation(report: dict[str, Any], rows: list[Row], folder: Path) -> list[Row]:
    """Hold a long run to both equations, by the tables themselves; return the rejected rows."""
    written, rejected = read_table(folder / "out"), read_table(folder / "out.rejected")
    assert report["rows_in"] == report["candidates_in"] == len(rows)
    assert report["rows_out"] == report["candidates_out"] == len(written)
    assert report["rows_rejected"] == report["candidates_rejected"] == len(rejected)
    assert report["rows_in"] == len(written) + len(rejected) + report["candidates_cut"]
    for row in [*written, *rejected]:
        assert {name: row[name] for name in rows[0]} in rows
    for row in rejected:
        source = rows[row["rerank_source_row"]]
        assert {name: row[name] for name in source} == source
        assert row["rerank_source_file"] == "candidates.parquet"
    reasons = Counter(row["rerank_reason"] for row in rejected)
    assert report["plan"]["reasons"] == dict(reasons)
    return rejected


def test_every_kind_of_bad_row_is_put_aside_with_its_reason(
    tmp_path: Path, capsys: Capture
) -> None:
    """Each reason of the contract occurs, is counted, and both equations hold exactly."""
    rows = make_rows(12, 4)
    change(rows, 0, query=None)
    for blank, number in zip(BLANKS, (4, 5, 6, 7, 8, 9), strict=True):
        change(rows, number, query=blank)
    change(rows, 12, query_id=None)
    change(rows, 16, doc_id=None)
    change(rows, 17, text=None)
    for blank, number in zip(BLANKS, (20, 21, 22, 23, 24, 25), strict=True):
        change(rows, number, text=blank)
    change(rows, 29, doc_id="d0", text=rows[28]["text"])
    change(rows, 33, doc_id="d0")
    change(rows, 37, query=f"{QUERY_CANARY} another text under one id")
    job = set_up(tmp_path, rows=rows)
    report = call_json(capsys, "run", job)
    rejected = check_conservation(report, rows, tmp_path)
    where: dict[str, list[int]] = {}
    for row in rejected:
        where.setdefault(row["rerank_reason"], []).append(row["rerank_source_row"])
    assert {reason: sorted(numbers) for reason, numbers in where.items()} == {
        "null_query": [0],
        "blank_query": [4, 5, 6, 7, 8, 9],
        "null_query_id": [12],
        "null_document_id": [16],
        "blank_document": [17, 20, 21, 22, 23, 24, 25],
        "duplicate_document": [29],
        "conflicting_document": [32, 33],
        "conflicting_query": [36, 37, 38, 39],
    }
    assert {row["rerank_rejected"] for row in rejected} == {"row"}
    assert call(capsys, "verify", job).code == 0


def test_zero_width_and_other_visible_text_is_no_blank(tmp_path: Path, capsys: Capture) -> None:
    """What a model could read, be it one emoji or a zero-width joiner sequence, is kept."""
    rows = make_rows(2, 4)
    for number, text in enumerate(("0", ".", "\U0001f600", "\u0e01\u0e33", "a\u0301", "\u4e2d")):
        change(rows, number, text=text)
    job = set_up(tmp_path, rows=rows)
    assert call_json(capsys, "run", job)["rows_rejected"] == 0


def test_the_first_of_duplicates_by_first_stage_stays(tmp_path: Path, capsys: Capture) -> None:
    """Of equal documents the one that the first stage ranked best stays, wherever it stands."""
    rows = make_rows(1, 4)
    change(rows, 3, doc_id="d0", text=rows[0]["text"], rank=1)
    change(rows, 0, rank=4)
    job = set_up(tmp_path, rows=rows)
    rejected = check_conservation(call_json(capsys, "run", job), rows, tmp_path)
    assert [row["rerank_source_row"] for row in rejected] == [0]


def test_one_document_under_two_queries_is_no_duplicate(tmp_path: Path, capsys: Capture) -> None:
    """The same document may be a candidate of many queries."""
    rows = [{**row, "text": "one text for all"} for row in make_rows(3, 1)]
    job = set_up(tmp_path, rows=rows)
    assert call_json(capsys, "run", job)["rows_rejected"] == 0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"query": " "}, "blank_query"),
        ({"query_id": None}, "null_query_id"),
        ({"text": None}, "blank_document"),
        ({"doc_id": "d1"}, "conflicting_document"),
    ],
)
def test_on_bad_rows_fail_names_file_row_and_reason(
    tmp_path: Path, capsys: Capture, values: Row, reason: str
) -> None:
    """Under on_bad_rows: fail the first bad row is named, nothing is frozen or published."""
    first, second = make_rows(2, 3), [dict(row) for row in make_rows(5, 4)[12:]]
    change(second, 2, **values)
    write_table(tmp_path / "in" / "a.parquet", first)
    write_table(tmp_path / "in" / "deep" / "b.parquet", second)
    job = write_job(tmp_path, {"input": {"path": "in", "on_bad_rows": "fail"}})
    row = 1 if reason == "conflicting_document" else 2
    for command in ("plan", "run"):
        call(capsys, command, job).assert_says(2, "deep/b.parquet", f"row {row}", reason)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out.state/_all/plan/*"))


def test_a_table_of_bad_rows_only_is_published_empty(tmp_path: Path, capsys: Capture) -> None:
    """Where everything is rejected, nothing is sent and the counts still add up."""
    rows = [{**row, "text": " "} for row in make_rows()]
    job = set_up(tmp_path, rows=rows)
    report = call_json(capsys, "run", job)
    assert (report["rows_out"], report["rows_rejected"], report["requests"]) == (0, 12, 0)
    check_conservation(report, rows, tmp_path)
    assert call(capsys, "verify", job).code == 0
    again = call_json(capsys, "run", job)
    assert again["generation"] == report["generation"] == 1


def test_bad_candidates_of_a_list_leave_the_rest_of_their_row(
    tmp_path: Path, capsys: Capture
) -> None:
    """In layout nested a bad candidate goes alone; a bad query takes its row; both add up."""
    rows = nest(make_rows(5, 4))
    rows[0]["hits"][1]["text"] = " "
    rows[0]["hits"][2]["doc_id"] = None
    rows[1]["hits"][3] = dict(rows[1]["hits"][0])
    rows[2]["query"] = "\u3000"
    rows[3]["hits"] = []
    job = set_up(tmp_path, {"input": LISTS}, rows)
    report = call_json(capsys, "run", job)
    counts = {name: report[name] for name in report if name.startswith(("rows_", "candidates_"))}
    assert counts == {
        "rows_in": 5,
        "rows_out": 4,
        "rows_rejected": 1,
        "candidates_in": 16,
        "candidates_out": 9,
        "candidates_rejected": 7,
        "candidates_cut": 0,
    }
    rejected = read_table(tmp_path / "out.rejected")
    found = [(r["rerank_source_row"], r["rerank_rejected"], r["rerank_reason"]) for r in rejected]
    assert found == [
        (0, "candidate", "blank_document"),
        (0, "candidate", "null_document_id"),
        (1, "candidate", "duplicate_document"),
        (2, "row", "blank_query"),
    ]
    assert [len(row["hits"]) for row in rejected] == [1, 1, 1, 4]
    assert rejected[0]["hits"] == [rows[0]["hits"][1]]
    assert call(capsys, "verify", job).code == 0


def test_one_query_id_with_two_texts_takes_all_its_log_rows(
    tmp_path: Path, capsys: Capture
) -> None:
    """In a search log a query_id that names two texts is a conflict in each of its rows."""
    rows = [*nest(make_rows(3, 2)), *nest(make_rows(1, 2))]
    rows[3]["query"] = f"{QUERY_CANARY} edited"
    job = set_up(tmp_path, {"input": merge(LISTS, {"layout": "search_log"})}, rows)
    report = call_json(capsys, "run", job)
    assert (report["rows_out"], report["rows_rejected"]) == (2, 2)
    assert report["plan"]["reasons"] == {"conflicting_query": 2}


def test_null_candidates_and_null_structs_are_told_apart(tmp_path: Path, capsys: Capture) -> None:
    """A null list is a search without results and passes; a null struct is a bad candidate."""
    rows = nest(make_rows(3, 2))
    schema = pa.Table.from_pylist(rows).schema
    rows[0]["hits"] = None
    rows[1]["hits"][0] = None
    job = set_up(tmp_path, {"input": LISTS})
    write_table(tmp_path / "candidates.parquet", pa.Table.from_pylist(rows, schema=schema))
    report = call_json(capsys, "run", job)
    assert (report["rows_out"], report["candidates_in"]) == (3, 4)
    assert report["plan"]["reasons"] == {"null_document_id": 1}
    hits = {row["query_id"]: row["hits"] for row in read_table(tmp_path / "out")}
    assert hits["q0"] is None
    assert len(hits["q1"]) == 1
