"""Rows of a part: input rows taken in the order of the ranking, with our columns beside them.

Only keys and our own narrow columns are sorted in DuckDB. Rows are taken from their mapped file a
block at a time, so a part of any width is written in the memory of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rerank_jobs.config import Job
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.tables.mapped import MappedRows
from rerank_jobs.tables.sources import ELEMENT_MASK, ROW, quote

__all__ = ["arrange_list", "arrange_rows"]

STREAM_ROWS = 20_480

IntArray = npt.NDArray[np.int64]


def arrange_rows(
    con: duckdb.DuckDBPyConnection, job: Job, schema: pa.Schema, rows: MappedRows, block: int
) -> Iterator[pa.Table]:
    """Yield the part's rows in order, at most ``block`` at a time.

    ``con`` holds the table ``ranked``. Layout long: by query id and rank. List layouts: by row,
    each list by rank.
    """
    lists = job.input.columns.candidates
    if lists is None:
        yield from _arrange_long(con, job.input.columns.query_id or "", schema, rows, block)
    else:
        yield from _arrange_lists(con, lists, schema, rows, block)


def _ours() -> list[str]:
    return arrow_schema("scored").names


def _arrange_long(
    con: duckdb.DuckDBPyConnection, query_id: str, schema: pa.Schema, rows: MappedRows, block: int
) -> Iterator[pa.Table]:
    index = {
        "row": rows.column(ROW),
        "position": pa.array(np.arange(len(rows))),
        "gid": rows.column(query_id),
    }
    con.register("row_index", pa.table(index))
    ours = ", ".join(f"r.{quote(name)}" for name in _ours())
    query = f"""SELECT x.position, {ours} FROM ranked AS r JOIN row_index AS x ON r.row = x.row
        ORDER BY x.gid, r.rerank_rank"""
    for batch in con.sql(query).to_arrow_reader(STREAM_ROWS):
        for start in range(0, batch.num_rows, block):
            piece = batch.slice(start, block)
            taken = rows.take(piece.column("position").to_numpy())
            columns = [
                piece.column(name) if name in _ours() else taken.column(name)
                for name in schema.names
            ]
            yield pa.table(columns, names=schema.names)


def _arrange_lists(
    con: duckdb.DuckDBPyConnection, lists: str, schema: pa.Schema, rows: MappedRows, block: int
) -> Iterator[pa.Table]:
    numbers = rows.column(ROW).to_numpy()
    order = np.argsort(numbers, kind="stable")
    ours = ", ".join(quote(name) for name in _ours())
    for start in range(0, len(order), block):
        positions = order[start : start + block]
        mine = numbers[positions]
        found = con.sql(f"""SELECT row, ref & {ELEMENT_MASK} AS element, {ours} FROM ranked
            WHERE row BETWEEN {mine[0]} AND {mine[-1]}
            ORDER BY row, rerank_rank""").to_arrow_table()
        taken = rows.take(positions)
        results = arrange_list(taken.column(lists), mine, found, schema.field(lists).type)
        columns = [results if name == lists else taken.column(name) for name in schema.names]
        yield pa.table(columns, names=schema.names)


def arrange_list(
    column: pa.ChunkedArray[Any], numbers: IntArray, ranked: pa.Table, kind: Any
) -> Any:
    """Return a list column with each row's ranked elements in order, our fields among theirs.

    ``numbers`` are the rows' numbers, ascending; ``ranked`` has ``row``, ``element`` and our
    columns, by row and rank.
    """
    array = _one_chunk(column)
    home = np.searchsorted(numbers, ranked.column("row").to_numpy())
    starts = array.offsets.to_numpy()[:-1]
    chosen = array.values.take(starts[home] + ranked.column("element").to_numpy())
    fields, children = [], []
    for i in range(kind.value_type.num_fields):
        name = kind.value_type.field(i).name
        child = _one_chunk(ranked.column(name)) if name in _ours() else chosen.field(name)
        children.append(child)
        fields.append(pa.field(name, child.type))
    counts = np.bincount(home, minlength=len(numbers))
    offsets: Any = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    items = pa.StructArray.from_arrays(children, fields=fields)
    return pa.ListArray.from_arrays(offsets, items, mask=array.is_null())


def _one_chunk(column: pa.ChunkedArray[Any]) -> Any:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
