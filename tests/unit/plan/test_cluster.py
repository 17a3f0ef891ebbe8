"""Clustering: which rows stay, why others go, in which first-stage order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import InputError
from rerank_jobs.job import run_partition
from rerank_jobs.plan.build import build_plan
from rerank_jobs.tables.sources import open_input
from tests.builders import LONG_COLUMNS, make_job, make_rows, read_output, write_rows


def row(query_id: Any, query: Any, document_id: Any, document: Any, score: Any) -> dict[str, Any]:
    """Return one row of layout long."""
    return {
        "query_id": query_id,
        "query": query,
        "document_id": document_id,
        "document": document,
        "first_stage_score": score,
    }


def run(folder: Path, rows: list[dict[str, Any]], **parts: Any) -> tuple[Job, list[dict[str, Any]]]:
    """Run a job over rows; return it with the published rows."""
    write_rows(folder / "candidates.parquet", rows)
    job = make_job(folder, **parts)
    run_partition(job)
    return job, read_output(job).to_pylist()


def read_rejected(job: Job) -> dict[tuple[Any, Any], str]:
    """Return the reason of every rejected row by (query_id, document_id)."""
    rows = pq.read_table(job.rejected_root).to_pylist()
    return {(item["query_id"], item["document_id"]): item["rerank_reason"] for item in rows}


def test_every_kind_of_bad_row_is_put_aside_with_its_reason(tmp_path: Path) -> None:
    """Each bad row is in the rejected table with the right reason; all good ones are published."""
    rows = [
        row("q1", "red lamp", "a", "a red lamp", 3.0),
        row("q1", "red lamp", "b", "a blue lamp", 2.0),
        row("q1", None, "c", "text", 1.0),
        row("q1", " \t\u00a0\u3000", "d", "text", 1.0),
        row(None, "red lamp", "e", "text", 1.0),
        row("q1", "red lamp", None, "text", 1.0),
        row("q1", "red lamp", "g", None, 1.0),
        row("q1", "red lamp", "h", " \n ", 1.0),
        row("q2", "one text", "a", "text", 1.0),
        row("q2", "other text", "b", "text", 1.0),
        row("q3", "table", "same", "wood", 1.0),
        row("q3", "table", "same", "metal", 2.0),
        row("q3", "table", "kept", "glass", 1.0),
        row("q3", "table", "other", "paper", 0.5),
    ]
    job, out = run(tmp_path, rows)
    assert read_rejected(job) == {
        ("q1", "c"): "null_query",
        ("q1", "d"): "blank_query",
        (None, "e"): "null_query_id",
        ("q1", None): "null_document_id",
        ("q1", "g"): "blank_document",
        ("q1", "h"): "blank_document",
        ("q2", "a"): "conflicting_query",
        ("q2", "b"): "conflicting_query",
        ("q3", "same"): "conflicting_document",
    }
    kept = {(item["query_id"], item["document_id"]) for item in out}
    assert kept == {("q1", "a"), ("q1", "b"), ("q3", "kept"), ("q3", "other")}


def test_of_equal_duplicates_the_first_by_first_stage_stays(tmp_path: Path) -> None:
    """Two equal rows of one document: the better placed one is published, the other put aside."""
    rows = [
        row("q", "table", "twice", "wood", 0.2),
        row("q", "table", "twice", "wood", 0.9),
        row("q", "table", "once", "glass", 0.5),
    ]
    job, out = run(tmp_path, rows)
    assert read_rejected(job) == {("q", "twice"): "duplicate_document"}
    first = {item["document_id"]: item for item in out}
    assert first["twice"]["first_stage_score"] == 0.9
    assert first["twice"]["rerank_first_stage_rank"] == 1


def test_rejected_rows_name_their_file_and_row(tmp_path: Path) -> None:
    """A rejected row carries every input column, its file and its row in that file."""
    folder = tmp_path / "candidates.parquet"
    write_rows(
        folder / "a.parquet", [row("q", "lamp", "a", "x", 1.0), row("q", "lamp", "b", "y", 1.0)]
    )
    write_rows(
        folder / "b.parquet", [row("q", "lamp", "c", "z", 1.0), row("q", "lamp", "d", "", 1.0)]
    )
    job = make_job(tmp_path)
    run_partition(job)
    (found,) = pq.read_table(job.rejected_root).to_pylist()
    assert (found["document_id"], found["rerank_source_file"], found["rerank_source_row"]) == (
        "d",
        "b.parquet",
        1,
    )
    assert found["rerank_rejected"] == "row"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"first_stage_rank": "place"}, ["c", "a", "b"]),
        ({"first_stage_score": "points"}, ["b", "a", "c"]),
        ({"first_stage_rank": "place", "first_stage_score": "points"}, ["c", "a", "b"]),
        ({}, ["a", "b", "c"]),
    ],
)
def test_the_first_stage_is_ranked_by_rank_then_score_then_row(
    tmp_path: Path, columns: dict[str, str], expected: list[str]
) -> None:
    """Rank orders where it is named, else score descending, else the rows as they stand."""
    rows = [
        {"query_id": "q", "query": "lamp", "document_id": name, "document": name * 3, **places}
        for name, places in {
            "a": {"place": 2, "points": 5.0},
            "b": {"place": 3, "points": 9.0},
            "c": {"place": 1, "points": float("nan")},
        }.items()
    ]
    write_rows(tmp_path / "candidates.parquet", rows)
    roles = {name: name for name in ("query_id", "query", "document_id", "document")}
    job = make_job(tmp_path, input={"path": "candidates.parquet", "columns": {**roles, **columns}})
    run_partition(job)
    out = sorted(read_output(job).to_pylist(), key=lambda item: item["rerank_first_stage_rank"])
    assert [item["document_id"] for item in out] == expected


def test_top_k_cuts_by_first_stage_before_paying(tmp_path: Path) -> None:
    """With top_k 2 the two best of each query are published; the rest is counted as cut."""
    rows = make_rows(5, 7)
    write_rows(tmp_path / "candidates.parquet", rows)
    job = make_job(tmp_path, candidates={"top_k": 2})
    result = run_partition(job)
    assert (result.promise.candidates_cut, result.promise.candidates_out) == (25, 10)
    assert result.promise.passages == 10
    best = {
        query_id: sorted(
            (item["first_stage_score"] for item in rows if item["query_id"] == query_id),
            reverse=True,
        )[:2]
        for query_id in {item["query_id"] for item in rows}
    }
    for query_id, scores in best.items():
        mine = [
            r["first_stage_score"]
            for r in read_output(job).to_pylist()
            if r["query_id"] == query_id
        ]
        assert sorted(mine, reverse=True) == scores


def test_a_single_candidate_is_ranked_for_nothing(tmp_path: Path) -> None:
    """A query with one candidate sends nothing and is published as rank 1, status single."""
    write_rows(tmp_path / "candidates.parquet", [row("q", "lamp", "a", "text", 1.0)])
    job = make_job(tmp_path)
    result = run_partition(job)
    (out,) = read_output(job).to_pylist()
    assert result.totals.requests == 0
    assert (out["rerank_rank"], out["rerank_status"], out["rerank_score"]) == (1, "single", None)


def test_names_of_our_own_tables_may_be_names_of_their_columns(tmp_path: Path) -> None:
    """Columns called row, ref, shard, size, did, grp and query_key pass through untouched."""
    strange = (
        "row",
        "ref",
        "shard",
        "size",
        "did",
        "grp",
        "query_key",
        "text",
        "raw",
        "n",
        "s",
        "c",
    )
    rows = [
        {**item, **{name: f"{name}-{number}" for name in strange}}
        for number, item in enumerate(make_rows(4, 3))
    ]
    for document in (["document"], ["document", "row"]):
        folder = tmp_path / "-".join(document)
        write_rows(folder / "candidates.parquet", rows)
        columns = {**LONG_COLUMNS, "document": document}
        job = make_job(folder, input={"path": "candidates.parquet", "columns": columns})
        run_partition(job)
        out = read_output(job).select(list(rows[0])).to_pylist()
        assert sorted(map(repr, out)) == sorted(map(repr, rows))


def test_fields_of_structs_may_be_called_as_we_call_positions(tmp_path: Path) -> None:
    """Fields called position, row, ref and i of a nested table keep their values."""
    results = [
        {"id": f"d{i}", "text": f"text {i}", "position": 9 - i, "row": i, "ref": -i, "i": i * i}
        for i in range(4)
    ]
    rows = [{"query_id": "q", "query": "text 2", "row": 7, "results": results}]
    write_rows(tmp_path / "candidates.parquet", rows)
    roles = {"query_id": "query_id", "query": "query", "candidates": "results"}
    columns = {**roles, "document_id": "id", "document": "text"}
    spec = {"path": "candidates.parquet", "layout": "nested", "columns": columns}
    job = make_job(tmp_path, input=spec)
    run_partition(job)
    (out,) = read_output(job).to_pylist()
    assert out["row"] == 7
    kept = [{name: item[name] for name in results[0]} for item in out["results"]]
    assert sorted(kept, key=lambda item: item["i"]) == results


def test_one_query_text_lies_in_one_shard(tmp_path: Path) -> None:
    """Rows of one query text fall into one shard, and every row into exactly one."""
    write_rows(tmp_path / "candidates.parquet", make_rows(40, 5))
    job = make_job(tmp_path, shards={"rows_per_shard": 20})
    table = open_input(job, "_all")
    folder = tmp_path / "work"
    folder.mkdir()
    draft = build_plan(job, table, salt=b"s" * 32, library=None, folder=folder)
    assert len(draft.prices) == 10
    home: dict[str, int] = {}
    rows = 0
    for shard in range(10):
        with pa.OSFile(str(draft.work_file("rows", shard)), "rb") as source:
            read = pa.ipc.open_file(source).read_all()
        rows += read.num_rows
        for query in map(str, read.column("query").to_pylist()):
            assert home.setdefault(query, shard) == shard
    assert rows == 200


def test_on_bad_rows_fail_names_the_first_bad_row(tmp_path: Path) -> None:
    """Under on_bad_rows: fail nothing is planned; the message names reason, file and row."""
    rows = [row("q", "lamp", "a", "x", 1.0), row("q", "lamp", "b", None, 1.0)]
    write_rows(tmp_path / "candidates.parquet", rows)
    spec = {"path": "candidates.parquet", "columns": LONG_COLUMNS, "on_bad_rows": "fail"}
    job = make_job(tmp_path, input=spec)
    with pytest.raises(InputError, match=r"1 bad rows, the first \(blank_document\) in .* row 1"):
        run_partition(job)
