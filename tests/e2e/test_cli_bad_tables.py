"""Bad tables: one line that names the table, the column or file, and what to do; exit code 2."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.unit.cli.kit import (
    DOCUMENT_CANARY,
    LISTS,
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


SQL_NAMES = (
    *("row", "ref", "grp", "gid", "did", "shard", "size", "n", "raw", "i", "c", "s", "select"),
    *("doc_key", "query_key", "fs_rank", "filename", "rows"),
)
"""Names that SQL, or the database itself, could take for its own."""


def replace(rows: list[Row], name: str, value: Any) -> list[Row]:
    """Return the rows with another value in one column."""
    return [{**row, name: value} for row in rows]


def test_a_missing_table_is_named(tmp_path: Path, capsys: Capture) -> None:
    """A table that is not there is named with its full path and the key that names it."""
    job = write_job(tmp_path)
    for command in ("run", "plan"):
        where = str(tmp_path / "candidates.parquet")
        call(capsys, command, job).assert_says(2, where, "no such file or folder", "input.path")
    assert not (tmp_path / "out.state").exists()


def test_a_missing_partition_is_named(tmp_path: Path, capsys: Capture) -> None:
    """A partition without a folder is named by that folder."""
    job = set_up(
        tmp_path,
        {"input": {"path": "in/{partition}"}, "partition": {"template": "ds={key}"}},
    )
    call(capsys, "run", job, "--partition", "2026-11-22").assert_says(2, "in/ds=2026-11-22")


@pytest.mark.parametrize("names", [[], ["readme.txt"], ["_tmp.parquet"], [".x/a.parquet"]])
def test_a_folder_without_tables_is_refused(
    tmp_path: Path, capsys: Capture, names: list[str]
) -> None:
    """A folder without a visible *.parquet file is refused, not taken as an empty table."""
    (tmp_path / "in").mkdir()
    for name in names:
        write_table(tmp_path / "in" / name, make_rows())
    job = write_job(tmp_path, {"input": {"path": "in"}})
    call(capsys, "run", job).assert_says(2, str(tmp_path / "in"), "no *.parquet file")


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, capsys: Capture) -> None:
    """A CSV file under the name of a table is named; its text is not shown."""
    job = set_up(tmp_path)
    (tmp_path / "candidates.parquet").write_text(f"query\n{DOCUMENT_CANARY}\n", encoding="utf-8")
    call(capsys, "run", job).assert_says(2, "candidates.parquet", "not a readable Parquet file")


@pytest.mark.parametrize("keep", [0, 3, 200, -9])
def test_a_truncated_file_is_named(tmp_path: Path, capsys: Capture, keep: int) -> None:
    """A Parquet file that was cut short is named before anything is sent."""
    job = set_up(tmp_path)
    path = tmp_path / "candidates.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    call(capsys, "run", job).assert_says(2, "candidates.parquet", "write it again")


def test_damaged_pages_are_named(tmp_path: Path, capsys: Capture) -> None:
    """Pages overwritten behind a sound footer end in one line that names the file."""
    job = set_up(tmp_path)
    path = tmp_path / "candidates.parquet"
    pq.write_table(pa.Table.from_pylist(make_rows(50, 20)), path, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    call(capsys, "run", job).assert_says(2, "candidates.parquet", "write it again")
    assert not list(tmp_path.glob("out.state/_all/plan/*"))


@pytest.mark.parametrize(
    ("role", "name", "words"),
    [
        ("query", "qery", ("column 'qery'", "input.columns.query", "did you mean 'query'?")),
        ("query_id", "queryid", ("did you mean 'query_id'?",)),
        ("document_id", "docid", ("did you mean 'doc_id'?",)),
        ("document", ["text", "titel"], ("column 'titel'", "input.columns.document")),
        ("first_stage_rank", "zzzz", ("it has query_id, query, doc_id, text, rank, note",)),
        ("first_stage_score", "scor", ("input.columns.first_stage_score",)),
        ("query", "QUERY", ("column 'QUERY'",)),
    ],
)
def test_a_missing_column_meets_its_nearest_name(
    tmp_path: Path, capsys: Capture, role: str, name: object, words: tuple[str, ...]
) -> None:
    """A column that is not there is named with its role and the nearest name, or all names."""
    job = set_up(tmp_path, {"input": {"columns": {role: name}}})
    call(capsys, "run", job).assert_says(2, "candidates.parquet", "is missing", *words)


@pytest.mark.parametrize(
    ("column", "value", "role"),
    [
        ("query_id", 1.5, "query_id"),
        ("query", 7, "query"),
        ("query", b"bytes", "query"),
        ("doc_id", [1], "document_id"),
        ("rank", "first", "first_stage_rank"),
        ("rank", True, "first_stage_rank"),
        ("query", None, "query"),
    ],
)
def test_a_wrong_type_names_column_role_and_type(
    tmp_path: Path, capsys: Capture, column: str, value: object, role: str
) -> None:
    """A column of a type that its role cannot take is named with both, and what to do."""
    job = set_up(tmp_path, rows=replace(make_rows(), column, value))
    words = (f"column {column!r}", f"input.columns.{role}", "but must be", "cast it")
    call(capsys, "run", job).assert_says(2, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": {"candidates": "query"}}, ("column 'query'", "must be list")),
        ({"columns": {"candidates": "tags"}}, ("column 'tags'", "not a list of structs")),
        ({"columns": {"candidates": "hit"}}, ("did you mean 'hits'?",)),
        ({"columns": {"document_id": "docid"}}, ("field hits.docid", "did you mean 'doc_id'?")),
        ({"columns": {"document": "txt"}}, ("field hits.txt", "did you mean 'text'?")),
        ({"columns": {"first_stage_rank": "note"}}, ("field hits.note", "but must be")),
        ({"layout": "search_log", "columns": {"search_id": "sid"}}, ("column 'sid'",)),
        ({"layout": "search_log", "columns": {"clicked": "clik"}}, ("field hits.clik",)),
    ],
)
def test_the_fields_of_a_list_layout_are_checked(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    """In nested layouts the list column and the fields of its struct are checked by name."""
    rows = [{**row, "tags": ["a"]} for row in nest(make_rows())]
    job = set_up(tmp_path, {"input": merge(LISTS, changes)}, rows)
    call(capsys, "run", job).assert_says(2, "candidates.parquet", *words)


def test_layout_nested_needs_a_query_id(tmp_path: Path, capsys: Capture) -> None:
    """A nested table without a named query_id is refused: judgements and conflicts need it."""
    job = set_up(tmp_path, {"input": LISTS}, nest(make_rows()))
    data = yaml.safe_load(job.read_text())
    del data["input"]["columns"]["query_id"]
    job.write_text(yaml.safe_dump(data))
    call(capsys, "run", job).assert_says(2, "input.columns.query_id must name a column")


def test_an_empty_table_is_refused(tmp_path: Path, capsys: Capture) -> None:
    """A table without rows is an error, never an empty publication."""
    job = set_up(tmp_path)
    table = pa.Table.from_pylist(make_rows())
    write_table(tmp_path / "candidates.parquet", table.slice(0, 0))
    call(capsys, "run", job).assert_says(2, "candidates.parquet", "no rows")
    assert not (tmp_path / "out").exists()


def test_columns_of_one_name_are_refused(tmp_path: Path, capsys: Capture) -> None:
    """A table with two columns of one name is refused by that name."""
    job = set_up(tmp_path)
    table = pa.Table.from_pylist(make_rows())
    for name in ("note", "text"):
        twice = table.append_column(name, table.column("note"))
        write_table(tmp_path / "candidates.parquet", twice)
        call(capsys, "run", job).assert_says(2, f"column {name!r} stands twice", "rename")


@pytest.mark.parametrize("layout", ["long", "nested"])
def test_names_that_differ_only_in_case_are_refused(
    tmp_path: Path, capsys: Capture, layout: str
) -> None:
    """Names that engines take for one are refused, among columns and among struct fields."""
    rows = [{**row, "NOTE": "x"} for row in make_rows()]
    if layout == "nested":
        for row in (nested := nest(make_rows())):
            row["hits"] = [{**hit, "Note": "x"} for hit in row["hits"]]
        job = set_up(tmp_path, {"input": LISTS}, nested)
        call(capsys, "run", job).assert_says(2, "hits.note", "hits.Note", "differ only in case")
    else:
        job = set_up(tmp_path, rows=rows)
        call(capsys, "run", job).assert_says(2, "'note'", "'NOTE'", "differ only in case")


@pytest.mark.parametrize("name", ["rerank_score", "rerank_anything", "RERANK_Score"])
def test_our_prefix_is_refused_or_replaced(tmp_path: Path, capsys: Capture, name: str) -> None:
    """A column of our prefix is refused; with output.replace: true it is dropped."""
    rows = [{**row, name: "mine"} for row in make_rows()]
    job = set_up(tmp_path, rows=rows)
    call(capsys, "run", job).assert_says(2, repr(name), "output.replace: true")
    job = write_job(tmp_path, {"output": {"replace": True}})
    assert call_json(capsys, "run", job)["rows_out"] == 12
    written = read_table(tmp_path / "out")
    assert "mine" not in written[0].values()
    assert [key.lower() for key in written[0]].count("rerank_score") == 1
    assert call(capsys, "verify", job).code == 0


def test_our_prefix_in_a_struct_is_refused_or_replaced(tmp_path: Path, capsys: Capture) -> None:
    """A field of our prefix in the candidate struct is refused; output.replace drops it."""
    rows = nest(make_rows())
    for row in rows:
        row["hits"] = [{**hit, "rerank_score": -1.0} for hit in row["hits"]]
    job = set_up(tmp_path, {"input": LISTS}, rows)
    call(capsys, "run", job).assert_says(2, "hits.rerank_score", "output.replace: true")
    job = write_job(tmp_path, {"input": LISTS, "output": {"replace": True}})
    call_json(capsys, "run", job)
    hit = read_table(tmp_path / "out")[0]["hits"][0]
    assert hit["rerank_score"] >= 0
    assert call(capsys, "verify", job).code == 0


def test_a_published_table_can_be_reranked_again(tmp_path: Path, capsys: Capture) -> None:
    """Our own output is input again under output.replace: true, by its own column names."""
    job = set_up(tmp_path)
    call_json(capsys, "run", job)
    changes = {"input": {"path": "out"}, "output": {"path": "again", "replace": True}}
    job = write_job(tmp_path, changes)
    call_json(capsys, "run", job)
    assert read_table(tmp_path / "again") == read_table(tmp_path / "out")


def test_files_that_disagree_are_named(tmp_path: Path, capsys: Capture) -> None:
    """Two files with different types of one column are both named."""
    write_table(tmp_path / "in" / "a.parquet", make_rows(2))
    write_table(tmp_path / "in" / "b.parquet", replace(make_rows(2), "note", 7))
    job = write_job(tmp_path, {"input": {"path": "in"}})
    words = ("b.parquet", "column 'note'", "int64", "string", "a.parquet", "agree")
    call(capsys, "run", job).assert_says(2, *words)


def test_a_column_that_one_file_lacks_is_null_there(tmp_path: Path, capsys: Capture) -> None:
    """A pass-through column that only some files have survives, null elsewhere."""
    rows = make_rows(2)
    write_table(tmp_path / "in" / "a.parquet", [r for r in rows if r["query_id"] == "q0"])
    bare = [{k: v for k, v in r.items() if k != "note"} for r in rows if r["query_id"] == "q1"]
    write_table(tmp_path / "in" / "b.parquet", bare)
    job = write_job(tmp_path, {"input": {"path": "in"}})
    assert call_json(capsys, "run", job)["rows_out"] == 8
    notes = {(row["query_id"], row["note"]) for row in read_table(tmp_path / "out")}
    assert notes == {("q1", None)} | {("q0", f"n0-{d}") for d in range(4)}


def test_files_on_different_hive_levels_are_refused(tmp_path: Path, capsys: Capture) -> None:
    """A folder that mixes hive levels is refused: its rows would have different columns."""
    write_table(tmp_path / "in" / "lang=de" / "a.parquet", make_rows(2))
    write_table(tmp_path / "in" / "b.parquet", make_rows(2))
    job = write_job(tmp_path, {"input": {"path": "in"}})
    call(capsys, "run", job).assert_says(2, str(tmp_path / "in"), "hive")


def test_a_hive_column_that_the_files_hold_too_is_theirs(tmp_path: Path, capsys: Capture) -> None:
    """Where the files hold the column that their folder names, their own values count."""
    write_table(tmp_path / "in" / "note=other" / "a.parquet", make_rows(2))
    job = write_job(tmp_path, {"input": {"path": "in"}})
    call_json(capsys, "run", job)
    assert {row["note"][:2] for row in read_table(tmp_path / "out")} == {"n0", "n1"}


def test_hive_columns_half_in_the_files_are_refused(tmp_path: Path, capsys: Capture) -> None:
    """Two hive levels of which the files hold one are refused by that name."""
    write_table(tmp_path / "in" / "lang=de" / "note=other" / "a.parquet", make_rows(2))
    job = write_job(tmp_path, {"input": {"path": "in"}})
    call(capsys, "run", job).assert_says(2, "'note'", "hive")


@pytest.mark.parametrize("layout", ["long", "nested"])
def test_a_role_cannot_name_a_column_that_is_dropped(
    tmp_path: Path, capsys: Capture, layout: str
) -> None:
    """With output.replace a role that names one of our own columns is refused, not lost."""
    rows = replace(make_rows(), "rerank_score", 0.5)
    part: dict[str, Any] = {"columns": {"first_stage_score": "rerank_score"}}
    if layout == "nested":
        rows = nest(make_rows())
        for row in rows:
            row["hits"] = replace(row["hits"], "rerank_score", 0.5)
        part = merge(LISTS, part)
    job = set_up(tmp_path, {"input": part, "output": {"replace": True}}, rows)
    call(capsys, "run", job).assert_says(2, "input.columns.first_stage_score", "rename it")


@pytest.mark.parametrize("name", ["_rj_row", "_RJ_x", "file_index", "File_Row_Number"])
def test_a_column_with_an_internal_name_is_refused(
    tmp_path: Path, capsys: Capture, name: str
) -> None:
    """A name by which rows are numbered inside is refused: it would lose or mix rows."""
    job = set_up(tmp_path, rows=replace(make_rows(), name, 0))
    call(capsys, "run", job).assert_says(2, f"column {name!r}", "rename")


def test_text_that_is_not_utf8_is_named_by_file(tmp_path: Path, capsys: Capture) -> None:
    """A text column with bytes that are not UTF-8 is refused by file, without the bytes."""
    job = set_up(tmp_path)
    table = pa.Table.from_pylist(make_rows())
    raw = pa.array([f"{DOCUMENT_CANARY} ".encode() + b"\xff\xfe"] * 12)
    offsets = raw.buffers()
    bad = pa.Array.from_buffers(pa.string(), 12, offsets)
    table = table.set_column(table.schema.get_field_index("text"), "text", bad)
    write_table(tmp_path / "candidates.parquet", table)
    call(capsys, "run", job).assert_says(2, "candidates.parquet", "UTF-8")


def test_an_unreadable_table_is_named(tmp_path: Path, capsys: Capture) -> None:
    """A dangling link in place of a table ends in one line with its path."""
    job = write_job(tmp_path)
    (tmp_path / "candidates.parquet").symlink_to(tmp_path / "gone")
    call(capsys, "run", job).assert_says(2, "candidates.parquet", "no such file")


def test_odd_but_sound_types_run(tmp_path: Path, capsys: Capture) -> None:
    """Dictionaries, large strings, decimals, nanoseconds and unsigned ids are no mistakes."""
    rows = make_rows()
    table = pa.table(
        {
            "query_id": pa.array(range(12), pa.uint8()),
            "query": pa.array([row["query"] for row in rows]).dictionary_encode(),
            "doc_id": pa.array([row["doc_id"] for row in rows], pa.large_string()),
            "text": pa.array([row["text"] for row in rows]).dictionary_encode(),
            "rank": pa.array([Decimal(row["rank"]) for row in rows], pa.decimal128(9, 2)),
            "when": pa.array(range(12), pa.timestamp("us", tz="Asia/Tokyo")),
            "weird \"name' ": pa.array(range(12), pa.int8()),
            **{name: pa.array(range(12), pa.int8()) for name in SQL_NAMES},
        }
    )
    job = set_up(tmp_path)
    write_table(tmp_path / "candidates.parquet", table)
    assert call_json(capsys, "run", job)["rows_out"] == 12
    written = {row["query_id"]: row for row in read_table(tmp_path / "out")}
    for number, row in enumerate(table.to_pylist()):
        assert {name: written[number][name] for name in row} == row
