"""Listwise models: a score depends on the other texts of its request, so lists stay as they are."""

from __future__ import annotations

import duckdb

from rerank_jobs.config import Job
from rerank_jobs.errors import JobError

__all__ = ["check_lists", "check_windows"]


def check_lists(con: duckdb.DuckDBPyConnection, job: Job) -> None:
    """Refuse what would score a list together with another one, or with scores of another list.

    Raises:
        JobError: scores may be reused, or a query stands in several groups.

    """
    if job.reuse.mode != "off":
        raise JobError(
            f"job {job.name}: {job.endpoint.model} is listwise: its scores hold for one list only:"
            ' set reuse.mode: "off"'
        )
    shared = _count(
        con,
        "SELECT query_key FROM ranked WHERE n > 1 GROUP BY query_key HAVING min(grp) <> max(grp)",
    )
    if shared:
        raise JobError(
            f"job {job.name}: {job.endpoint.model} is listwise: {shared:,} queries stand in more"
            " than one group, whose lists cannot share scores: keep one group of each"
        )


def check_windows(con: duckdb.DuckDBPyConnection, job: Job) -> None:
    """Refuse documents in windows: they would compete with each other in their list.

    Raises:
        JobError: a document is longer than the context.

    """
    windowed = _count(
        con,
        "SELECT doc_key FROM sends WHERE sent GROUP BY query_key, doc_key HAVING count(*) > 1",
    )
    if windowed:
        raise JobError(
            f"job {job.name}: {job.endpoint.model} is listwise: {windowed:,} documents are longer"
            " than the context: set context.long_documents: truncate"
        )


def _count(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(f"SELECT count(*) FROM ({query})").fetchone()
    return int(row[0]) if row else 0
