"""Published files as one table of documents, whatever their layout."""

from __future__ import annotations

from pathlib import Path

import duckdb

from rerank_jobs.config import Job
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.tables.sources import quote, quote_text

__all__ = ["open_documents"]


def open_documents(con: duckdb.DuckDBPyConnection, job: Job, paths: list[Path]) -> int:
    """Create the table ``documents(grp, position, …our columns)`` and return its row count."""
    files = ", ".join(quote_text(str(path)) for path in paths)
    source = f"read_parquet([{files}], hive_partitioning=false)"
    ours = [quote(name) for name in arrow_schema("scored").names]
    columns = job.input.columns
    if columns.candidates is None:
        select = f"""SELECT {quote(columns.query_id or "")} AS grp, NULL::BIGINT AS position,
            {", ".join(ours)} FROM {source}"""
    else:
        lists = quote(columns.candidates)
        select = f"""SELECT grp, i AS position, {", ".join(f"c.{name}" for name in ours)} FROM (
            SELECT (file_index, file_row_number) AS grp, generate_subscripts({lists}, 1) AS i,
            unnest({lists}) AS c FROM {source})"""
    con.execute(f"CREATE TEMP TABLE documents AS {select}")
    found = con.execute("SELECT count(*) FROM documents").fetchone()
    return int(found[0]) if found else 0
