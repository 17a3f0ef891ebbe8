"""Verification finds every kind of damage in what was published, and none where there is none."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.config import Job
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.publish.generations import Generation, Part
from rerank_jobs.publish.publisher import Roots
from rerank_jobs.publish.verify import Verification, verify_generation
from tests.builders import make_job
from tests.unit.publish.kit import make_roots

Row = dict[str, Any]
NAME = "part-00000-00000000.parquet"
OURS = arrow_schema("scored")
LONG = pa.schema([("query_id", pa.string()), ("document_id", pa.string()), *OURS])
STRUCT = pa.struct([("id", pa.string()), ("text", pa.string()), *OURS])
NESTED = pa.schema([("query", pa.string()), ("candidates", pa.list_(STRUCT))])


def document(query: str, rank: int, first: int, score: float | None, status: str) -> Row:
    """Return a published row."""
    return {
        "query_id": query,
        "document_id": f"{query}-{first}",
        "rerank_score": score,
        "rerank_rank": rank,
        "rerank_first_stage_rank": first,
        "rerank_delta": first - rank,
        "rerank_status": status,
        "rerank_error": "http_400" if status == "failed" else None,
        "rerank_windows": 1,
        "rerank_truncated": False,
    }


def good_rows() -> list[Row]:
    """Return groups of every kind: plain, with ties, a single one, with failed documents."""
    return [
        document("plain", 1, 3, 0.9, "scored"),
        document("plain", 2, 1, 0.5, "reused"),
        document("plain", 3, 2, 0.1, "scored"),
        document("ties", 1, 2, 0.7, "scored"),
        document("ties", 2, 4, 0.7, "scored"),
        document("ties", 3, 1, 0.2, "scored"),
        document("ties", 4, 3, 0.2, "scored"),
        document("single", 1, 1, None, "single"),
        document("some", 1, 3, 0.8, "scored"),
        document("some", 2, 4, 0.3, "scored"),
        document("some", 3, 1, None, "failed"),
        document("some", 4, 2, None, "failed"),
        # As ``on_failed: keep_first_stage`` leaves it.
        document("kept", 1, 1, 0.1, "scored"),
        document("kept", 2, 2, None, "failed"),
        document("kept", 3, 3, 0.9, "scored"),
    ]


def publish(roots: Roots, table: pa.Table, documents: list[Row]) -> Generation:
    """Put a part as it is, and return a generation whose manifest fits it."""
    path = Path(roots.output.location) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    data = path.read_bytes()
    statuses: dict[str, int] = {}
    for row in good_rows():
        statuses[row["rerank_status"]] = statuses.get(row["rerank_status"], 0) + 1
    promise = {
        "rows_out": table.num_rows,
        "candidates_in": len(documents),
        "candidates_out": len(documents),
        "candidates_rejected": 0,
        "candidates_cut": 0,
    }
    part = Part(NAME, hashlib.sha256(data).hexdigest(), len(data), table.num_rows)
    facts = {"partition": "_all", "statuses": statuses, "promise": promise}
    return Generation(1, "manifest", "0" * 32, (part,), (), facts)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return make_roots(tmp_path)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path)


def verify_rows(roots: Roots, job: Job, rows: list[Row]) -> Verification:
    table = pa.Table.from_pylist(rows, schema=LONG)
    return verify_generation(job, roots, publish(roots, table, rows))


def test_a_good_generation_has_no_problems(roots: Roots, job: Job) -> None:
    """Groups of every kind, as the design ranks them, are clean, and they are counted."""
    found = verify_rows(roots, job, good_rows())
    assert found.problems == ()
    assert (found.files, found.rows, found.documents, found.rejected) == (1, 15, 15, 0)


def change(query: str, rank: int, **changes: Any) -> Callable[[list[Row]], None]:
    """Change one document."""

    def apply(rows: list[Row]) -> None:
        (row,) = (r for r in rows if (r["query_id"], r["rerank_rank"]) == (query, rank))
        row.update(changes)

    return apply


def swap(query: str, one: int, other: int) -> Callable[[list[Row]], None]:
    """Give two documents each other's rank, with deltas that fit."""

    def apply(rows: list[Row]) -> None:
        first, second = (
            next(r for r in rows if (r["query_id"], r["rerank_rank"]) == (query, rank))
            for rank in (one, other)
        )
        first["rerank_rank"], second["rerank_rank"] = other, one
        for row in (first, second):
            row["rerank_delta"] = row["rerank_first_stage_rank"] - row["rerank_rank"]

    return apply


DAMAGE = {
    "a rank twice": (change("plain", 3, rerank_rank=2, rerank_delta=0), "ranks are not 1..n"),
    "a rank left out": (change("plain", 3, rerank_rank=4, rerank_delta=-2), "ranks are not 1..n"),
    "ranks from zero": (change("single", 1, rerank_rank=0, rerank_delta=1), "ranks are not 1..n"),
    "no rank": (change("plain", 3, rerank_rank=None), "ranks are not 1..n"),
    "a lower score first": (swap("plain", 1, 2), "scores do not fall"),
    "a lower score first among failures": (swap("some", 1, 2), "scores do not fall"),
    "a tie in the wrong order": (swap("ties", 1, 2), "equal scores are not"),
    "a later tie in the wrong order": (swap("ties", 3, 4), "equal scores are not"),
    "failed documents in the wrong order": (swap("some", 3, 4), "equal scores are not"),
    "a failed document first": (swap("some", 2, 3), "before a scored one"),
    "a wrong delta": (change("plain", 1, rerank_delta=1), "rerank_delta is not"),
    "a first-stage rank twice": (
        change("plain", 1, rerank_first_stage_rank=2, rerank_delta=1),
        "first-stage ranks are not 1..n",
    ),
    "a score that is not a number": (change("plain", 3, rerank_score=math.nan), "no finite score"),
    "an infinite score": (change("plain", 1, rerank_score=math.inf), "no finite score"),
    "a scored document without score": (change("plain", 3, rerank_score=None), "no finite score"),
    "a failed document with a score": (change("some", 4, rerank_score=0.1), "no finite score"),
    "a single document with a score": (change("single", 1, rerank_score=0.1), "no finite score"),
    "another status": (change("plain", 1, rerank_status="reused"), "documents by status are"),
    "an unknown status": (change("single", 1, rerank_status="odd"), "documents by status are"),
    "no status": (change("single", 1, rerank_status=None), "documents by status are"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_every_kind_of_wrong_ranking_is_found(roots: Roots, job: Job, name: str) -> None:
    """Bytes that fit their manifest but do not rank as promised are a problem that is named."""
    damage, problem = DAMAGE[name]
    rows = good_rows()
    damage(rows)
    found = verify_rows(roots, job, rows)
    assert any(problem in line for line in found.problems), found.problems


def test_bytes_that_differ_are_found(roots: Roots, job: Job) -> None:
    """One changed byte, a file cut short, and a file that is gone are each told by name."""
    rows = good_rows()
    generation = publish(roots, pa.Table.from_pylist(rows, schema=LONG), rows)
    path = Path(roots.output.location) / NAME
    data = path.read_bytes()
    for damaged in (data[:100] + bytes([data[100] ^ 1]) + data[101:], data[:-1], b""):
        path.write_bytes(damaged)
        (problem,) = verify_generation(job, roots, generation).problems
        assert NAME in problem
        assert "SHA-256" in problem
    path.unlink()
    (problem,) = verify_generation(job, roots, generation).problems
    assert problem.endswith(f"{NAME}: missing")


def test_a_manifest_with_wrong_counts_is_found(roots: Roots, job: Job) -> None:
    """Rows, documents and the equation of conservation are checked against what was read."""
    rows = good_rows()
    generation = publish(roots, pa.Table.from_pylist(rows, schema=LONG), rows)
    (part,) = generation.parts
    short = replace(generation, parts=(replace(part, rows=14),))
    assert "holds other than 14 rows" in "".join(verify_generation(job, roots, short).problems)
    for name in ("rows_out", "candidates_out", "candidates_in"):
        promise = {**generation.document["promise"], name: 16}
        wrong = replace(generation, document={**generation.document, "promise": promise})
        assert verify_generation(job, roots, wrong).problems


def test_a_strangers_parquet_file_is_found(roots: Roots, job: Job) -> None:
    """A Parquet file that a plain glob would read too is named; other files are not ours."""
    rows = good_rows()
    generation = publish(roots, pa.Table.from_pylist(rows, schema=LONG), rows)
    for name in ("notes.txt", "stray.parquet"):
        (Path(roots.output.location) / name).write_bytes(b"x")
    (problem,) = verify_generation(job, roots, generation).problems
    assert "stray.parquet: not a part of generation 1" in problem


def test_a_column_that_is_gone_or_of_another_type_is_found(roots: Roots, job: Job) -> None:
    """The published columns are those of the contract."""
    rows = good_rows()
    table = pa.Table.from_pylist(rows, schema=LONG)
    narrow = table.set_column(
        2, pa.field("rerank_score", pa.float32()), table.column("rerank_score").cast(pa.float32())
    )
    for damaged, column in (
        (table.drop_columns(["rerank_delta"]), "rerank_delta"),
        (narrow, "rerank_score"),
    ):
        (problem,) = verify_generation(job, roots, publish(roots, damaged, rows)).problems
        assert f"column {column} is" in problem


def nested_table(groups: list[list[Row]]) -> pa.Table:
    names = [field.name for field in OURS]
    rows = [
        {
            "query": "the same text",
            "candidates": [
                {"id": row["document_id"], **{n: row.get(n) for n in names}} for row in group
            ],
        }
        for group in groups
    ]
    return pa.Table.from_pylist(rows, schema=NESTED)


def test_lists_are_checked_like_rows(roots: Roots, tmp_path: Path) -> None:
    """In list layouts a group is a row, and its list stands in the order of its ranks."""
    columns = {
        "query": "query",
        "candidates": "candidates",
        "document_id": "id",
        "document": "text",
    }
    nested = {"path": "x.parquet", "layout": "nested", "columns": columns}
    job = make_job(tmp_path, input=nested)
    rows = good_rows()
    names = list(dict.fromkeys(row["query_id"] for row in rows))
    groups = [[row for row in rows if row["query_id"] == name] for name in names]
    good = verify_generation(job, roots, publish(roots, nested_table(groups), rows))
    assert (good.problems, good.rows, good.documents) == ((), 5, 15)
    groups[0] = [groups[0][1], groups[0][0], groups[0][2]]
    found = verify_generation(job, roots, publish(roots, nested_table(groups), rows))
    assert found.problems == ("list positions differ from ranks in 1 groups",)
