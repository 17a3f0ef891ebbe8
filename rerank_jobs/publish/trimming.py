"""Trimming: a published file without what is erased, as if it had never been there.

Rows keep their order and their bytes' form (schema, row groups, sink). Where a candidate goes, the
others of its group are ranked anew by the rule of merging: ranks and first-stage ranks are 1..n.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.config import Columns
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.publish.rows import arrange_list
from rerank_jobs.tables.mapped import MappedRows
from rerank_jobs.tables.matching import POSITION, scan_part
from rerank_jobs.tables.sink import write_parquet
from rerank_jobs.tables.sources import quote

__all__ = ["count_reasons", "trim_part", "trim_rejected"]

RANKS = ("rerank_rank", "rerank_first_stage_rank", "rerank_delta")


def trim_part(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    columns: Columns,
    on_failed: str,
    folder: Path,
    target: Path,
) -> int:
    """Write a part without what the table ``matched`` of ``con`` names; return its rows.

    ``on_failed`` is the policy by which the part was ranked; ``folder`` is scratch space.
    """
    if columns.candidates is None:
        _rank_long(con, path, columns, on_failed)
    else:
        _rank_lists(con, path, columns.candidates, on_failed)
    return _copy(path, folder, target, lambda rows, size: _arrange(con, rows, columns, size))


def trim_rejected(con: duckdb.DuckDBPyConnection, path: Path, folder: Path, target: Path) -> int:
    """Write a rejected table without rows that hold anything of ``matched``; return its rows."""
    con.execute(f"""CREATE OR REPLACE TEMP TABLE staying AS SELECT {POSITION} AS position
        FROM ({scan_part(path)}) WHERE {POSITION} NOT IN (SELECT position FROM matched)""")
    return _copy(path, folder, target, lambda rows, size: _arrange_rejected(con, rows, size))


def count_reasons(
    con: duckdb.DuckDBPyConnection, path: Path, columns: Columns
) -> list[tuple[str, str, int, int]]:
    """Count what ``trim_rejected`` leaves out: (reason, row or candidate, rows, candidates)."""
    size = "1" if columns.candidates is None else f"coalesce(len({quote(columns.candidates)}), 0)"
    found = con.execute(f"""SELECT rerank_reason, rerank_rejected, count(*), sum({size})
        FROM ({scan_part(path)}) WHERE {POSITION} IN (SELECT position FROM matched)
        GROUP BY ALL""").fetchall()
    return [(str(a), str(b), int(c), int(d or 0)) for a, b, c, d in found]


def _order(on_failed: str) -> str:
    order = "failed, rerank_score DESC NULLS LAST, fs"
    if on_failed == "keep_first_stage":
        order = "CASE WHEN group_failed THEN fs END NULLS FIRST, " + order
    return order


def _rank_long(
    con: duckdb.DuckDBPyConnection, path: Path, columns: Columns, on_failed: str
) -> None:
    """Create ``staying``: positions and new ranks of rows, in their order."""
    group = quote(columns.query_id or "")
    con.execute(f"""CREATE OR REPLACE TEMP TABLE staying AS
        SELECT position, row_number() OVER (PARTITION BY grp ORDER BY {_order(on_failed)}) AS rank,
            row_number() OVER (PARTITION BY grp ORDER BY fs) AS fs_rank, home FROM (
            SELECT *, bool_or(failed) OVER (PARTITION BY grp) AS group_failed,
                min(position) OVER (PARTITION BY grp) AS home FROM (
                SELECT {POSITION} AS position, {group} AS grp, rerank_score,
                    rerank_first_stage_rank AS fs, rerank_status = 'failed' AS failed
                FROM ({scan_part(path)})
                WHERE {POSITION} NOT IN (SELECT position FROM matched)))""")


def _rank_lists(con: duckdb.DuckDBPyConnection, path: Path, lists: str, on_failed: str) -> None:
    """Create ``staying``, positions of rows, and ``ranking``, their elements by new rank."""
    ours = ", ".join(f"item.{quote(n)} AS {quote(n)}" for n in arrow_schema("scored").names)
    con.execute(f"""CREATE OR REPLACE TEMP TABLE staying AS SELECT {POSITION} AS position
        FROM ({scan_part(path)}) WHERE {POSITION} NOT IN
        (SELECT position FROM matched WHERE element IS NULL)""")
    con.execute(f"""CREATE OR REPLACE TEMP TABLE elements AS SELECT *,
            rerank_first_stage_rank AS fs, rerank_status = 'failed' AS failed FROM (
            SELECT row, number - 1 AS element, {ours} FROM (
                SELECT {POSITION} AS row, generate_subscripts({quote(lists)}, 1) AS number,
                    unnest({quote(lists)}) AS item FROM ({scan_part(path)})))
        WHERE (row, element) NOT IN
            (SELECT (position, element) FROM matched WHERE element IS NOT NULL)
        AND row IN (SELECT position FROM staying)""")
    con.execute(f"""CREATE OR REPLACE TEMP TABLE ranking AS
        SELECT * EXCLUDE (fs, failed, group_failed, rank, fs_rank) REPLACE (
            rank::INTEGER AS rerank_rank, fs_rank::INTEGER AS rerank_first_stage_rank,
            (fs_rank - rank)::INTEGER AS rerank_delta) FROM (
            SELECT *, row_number() OVER (PARTITION BY row ORDER BY {_order(on_failed)}) AS rank,
                row_number() OVER (PARTITION BY row ORDER BY fs) AS fs_rank FROM (
                SELECT *, bool_or(failed) OVER (PARTITION BY row) AS group_failed FROM elements))
        """)


def _copy(path: Path, folder: Path, target: Path, arrange: Any) -> int:
    """Write what ``arrange`` yields of a part's rows as the part was written."""
    mapped = folder / "rows.arrow"
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow.remove_metadata()
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        size = max(groups, default=1)
        with pa.ipc.new_file(str(mapped), schema) as writer:
            for batch in file.iter_batches(max(1, size // 3)):
                writer.write_batch(batch)
    with pa.memory_map(str(mapped)) as source:
        rows = MappedRows(source)
        count = write_parquet(target, schema, arrange(rows, max(1, size // 3)), row_group=size)
    mapped.unlink()
    return count


def _arrange(
    con: duckdb.DuckDBPyConnection, rows: MappedRows, columns: Columns, size: int
) -> Iterator[pa.Table]:
    if columns.candidates is None:
        yield from _arrange_long(con, rows, size)
    else:
        yield from _arrange_lists(con, rows, columns.candidates, size)


def _arrange_long(
    con: duckdb.DuckDBPyConnection, rows: MappedRows, size: int
) -> Iterator[pa.Table]:
    query = """SELECT position, rank::INTEGER AS rerank_rank,
        fs_rank::INTEGER AS rerank_first_stage_rank, (fs_rank - rank)::INTEGER AS rerank_delta
        FROM staying ORDER BY home, rank"""
    for table in _read_blocks(con, query, size):
        taken = rows.take(table.column("position").to_numpy())
        for name in RANKS:
            index = taken.schema.get_field_index(name)
            taken = taken.set_column(index, taken.schema.field(index), table.column(name))
        yield taken


def _arrange_lists(
    con: duckdb.DuckDBPyConnection, rows: MappedRows, lists: str, size: int
) -> Iterator[pa.Table]:
    ours = ", ".join(quote(name) for name in arrow_schema("scored").names)
    for table in _read_blocks(con, "SELECT position FROM staying ORDER BY position", size):
        positions = table.column("position").to_numpy()
        found = con.sql(f"""SELECT row, element, {ours} FROM ranking WHERE row BETWEEN
            {positions[0]} AND {positions[-1]} ORDER BY row, rerank_rank""").to_arrow_table()
        taken = rows.take(positions)
        index = taken.schema.get_field_index(lists)
        field = taken.schema.field(index)
        column = arrange_list(taken.column(index), positions, found, field.type)
        yield taken.set_column(index, field, pa.chunked_array([column]).cast(field.type))


def _arrange_rejected(
    con: duckdb.DuckDBPyConnection, rows: MappedRows, size: int
) -> Iterator[pa.Table]:
    for table in _read_blocks(con, "SELECT position FROM staying ORDER BY position", size):
        yield rows.take(table.column("position").to_numpy())


def _read_blocks(con: duckdb.DuckDBPyConnection, query: str, size: int) -> Iterator[pa.Table]:
    """Yield a query's narrow rows, at most ``size`` at a time."""
    table = con.sql(query).to_arrow_table()
    for start in np.arange(0, table.num_rows, size):
        yield table.slice(int(start), size).combine_chunks()
