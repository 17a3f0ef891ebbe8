"""Small tables and jobs for tests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.config import Job
from rerank_jobs.job_file import parse_job

LONG_COLUMNS = {
    "query_id": "query_id",
    "query": "query",
    "document_id": "document_id",
    "document": "document",
    "first_stage_score": "first_stage_score",
}

LOG_COLUMNS = {
    "query_id": "query_id",
    "query": "query",
    "candidates": "results",
    "document_id": "doc_id",
    "document": ["title", "snippet", "url"],
    "position": "position",
    "clicked": "clicked",
}
"""Columns of the real search log."""

WORDS = (  # noqa: SIM905 - a list of words reads best as words
    "disk fan search engine battery screen lamp cable river mountain table chair window green blue"
    " quick heavy silent bright solar winter summer paper glass metal wooden round square music"
).split()


def make_rows(queries: int, candidates: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows in layout long, shuffled, every pair distinct."""
    draw = random.Random(seed)
    rows = [
        {
            "query_id": f"q{query:04d}",
            "query": f"{draw.choice(WORDS)} {draw.choice(WORDS)} {query}",
            "document_id": f"d{query:04d}-{number:03d}",
            "document": " ".join(draw.choices(WORDS, k=draw.randrange(5, 40)))
            + f" {query} {number}",
            "first_stage_score": round(draw.random(), 6),
        }
        for query in range(queries)
        for number in range(candidates)
    ]
    texts = {row["query_id"]: row["query"] for row in rows}
    for row in rows:
        row["query"] = texts[row["query_id"]]
    draw.shuffle(rows)
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    """Write rows as Parquet; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def make_job(folder: Path, **parts: Any) -> Job:
    """Return a job over ``folder/candidates.parquet``; ``parts`` replace parts of the job file."""
    return parse_job(make_job_data(**parts), base=folder)


def make_job_data(**parts: Any) -> dict[str, Any]:
    """Return the job file of ``make_job`` as a mapping."""
    return {
        "name": "test",
        "input": {"path": "candidates.parquet", "columns": LONG_COLUMNS},
        "output": {"path": "out"},
        **parts,
    }


def read_output(job: Job, folder: str = "") -> pa.Table:
    """Return all published parts of a partition."""
    paths = sorted((Path(job.output_root) / folder).glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
