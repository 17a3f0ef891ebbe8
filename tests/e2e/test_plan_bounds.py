"""Plans of real tables against the lower bound of their price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.job import preview_partition
from rerank_jobs.job_file import parse_job
from rerank_jobs.plan.promise import Promise

COLUMNS = {
    "query_id": "query_id",
    "query": "query",
    "document_id": "doc_id",
    "document": ["title", "text"],
    "first_stage_rank": "first_stage_rank",
}


def plan(folder: Path, table: Path, **context: Any) -> Promise:
    """Price a table at OpenRouter's list price."""
    data = {
        "name": "bounds",
        "input": {"path": str(table), "columns": COLUMNS},
        "output": {"path": "out"},
        "endpoint": {"url": "https://openrouter.ai/api/v1"},
        "context": context,
    }
    return preview_partition(parse_job(data, base=folder)).promise


def gather(folder: Path, table: Path, candidates: int) -> Path:
    """Write a table of one query with that many documents of a real table."""
    rows = pq.read_table(table, columns=["query", "doc_id", "title", "text"]).to_pylist()
    documents = list({row["doc_id"]: row for row in rows}.values())[:candidates]
    assert len(documents) == candidates
    same = {"query_id": "q", "query": rows[0]["query"]}
    ranked = [{**row, **same, "first_stage_rank": n} for n, row in enumerate(documents, 1)]
    pq.write_table(pa.Table.from_pylist(ranked), folder / "candidates.parquet")
    return folder / "candidates.parquet"


@pytest.mark.slow
@pytest.mark.parametrize("long_documents", ["window", "truncate"])
def test_long_documents_cost_the_lower_bound(
    shared_data: Path, tmp_path: Path, long_documents: str
) -> None:
    """Stories of many windows cost the fewest units possible, over all queries: none is above."""
    table = shared_data / "squality_long" / "candidates.parquet"
    promise = plan(tmp_path, table, long_documents=long_documents)
    assert promise.passages > promise.queries
    assert promise.search_units == promise.bound_units > 0


@pytest.mark.parametrize("name", ["cranfield", "squality_long"])
def test_120_candidates_cost_the_lower_bound(shared_data: Path, tmp_path: Path, name: str) -> None:
    """A query of 120 short or long real documents costs the fewest units possible."""
    table = gather(tmp_path, shared_data / name / "candidates.parquet", 120)
    promise = plan(tmp_path, table)
    assert (promise.queries, promise.pairs) == (1, 120)
    assert promise.search_units == promise.bound_units > 1
