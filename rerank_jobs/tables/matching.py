"""Matching: which rows and list elements of a table somebody wants to have erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa

from rerank_jobs.config import Columns
from rerank_jobs.errors import JobError
from rerank_jobs.tables.sources import quote, quote_text

__all__ = ["POSITION", "Wanted", "count_matches", "find_matches", "scan_part"]

POSITION = "_rj_position"
"""The row's number in what is matched."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be erased: ids of queries or of documents as text, or exact texts of either."""

    kind: Literal["query_id", "document_id", "text"]
    values: frozenset[str] = field(repr=False)


def scan_part(path: Path) -> str:
    """Return SQL of a Parquet file's rows with their ``POSITION``."""
    return f"""SELECT *, file_row_number AS {POSITION} FROM read_parquet(
        [{quote_text(str(path))}], file_row_number=true, hive_partitioning=false)"""


def find_matches(
    con: duckdb.DuckDBPyConnection, source: str, columns: Columns, wanted: Wanted
) -> int:
    """Create the table ``matched(position, element, by_query)``; return its rows.

    ``source`` is SQL with the columns of the input and ``POSITION``. ``element`` (from 0) is null
    where the whole row is meant; ``by_query`` tells that it is for its query's sake.

    Raises:
        JobError: queries are to be found by an id that the job's layout does not have.

    """
    values = pa.table({"value": pa.array(sorted(wanted.values), pa.string())})
    con.register("wanted", values)
    con.execute("""CREATE OR REPLACE TEMP TABLE matched(position BIGINT, element BIGINT,
        by_query BOOLEAN)""")
    query = _match_query(columns, wanted)
    if query is not None:
        con.execute(f"""INSERT INTO matched SELECT s.{POSITION}, NULL, true
            FROM ({source}) AS s WHERE {query}""")
    names = _name_document(columns, wanted)
    if names and columns.candidates is None:
        con.execute(f"""INSERT INTO matched SELECT s.{POSITION}, NULL, false
            FROM ({source}) AS s WHERE ({_match(names, "s")})
            AND s.{POSITION} NOT IN (SELECT position FROM matched)""")
    elif names and columns.candidates is not None:
        lists = f"s.{quote(columns.candidates)}"
        con.execute(f"""INSERT INTO matched SELECT position, number - 1, false FROM (
            SELECT s.{POSITION} AS position, generate_subscripts({lists}, 1) AS number,
                unnest({lists}) AS item FROM ({source}) AS s
            WHERE s.{POSITION} NOT IN (SELECT position FROM matched))
            WHERE {_match(names, "item")}""")
    con.unregister("wanted")
    found = con.execute("SELECT count(*) FROM matched").fetchone()
    return int(found[0]) if found else 0


def count_matches(con: duckdb.DuckDBPyConnection, path: Path, columns: Columns) -> tuple[int, int]:
    """Return (rows, documents) of a Parquet file that the table ``matched`` names."""
    if columns.candidates is None:
        size = "1"
    else:
        size = f"""CASE WHEN m.element IS NULL
            THEN coalesce(len(s.{quote(columns.candidates)}), 0) ELSE 1 END"""
    found = con.execute(f"""SELECT count(*) FILTER (m.element IS NULL), coalesce(sum({size}), 0)
        FROM ({scan_part(path)}) AS s JOIN matched AS m ON s.{POSITION} = m.position""").fetchone()
    rows, documents = found or (0, 0)
    return int(rows), int(documents)


def _match_query(columns: Columns, wanted: Wanted) -> str | None:
    if wanted.kind == "document_id":
        return None
    if wanted.kind == "text":
        return _match((columns.query,), "s")
    if columns.query_id is None:
        raise JobError(
            "--query-id: the job names no input.columns.query_id: give the query's text by"
            " --text-file"
        )
    return _match((columns.query_id,), "s")


def _name_document(columns: Columns, wanted: Wanted) -> tuple[str, ...]:
    if wanted.kind == "document_id":
        return (columns.document_id,)
    return tuple(columns.document) if wanted.kind == "text" else ()


def _match(names: Sequence[str], alias: str) -> str:
    terms = (f"{alias}.{quote(name)}::VARCHAR IN (SELECT value FROM wanted)" for name in names)
    return " OR ".join(terms)
