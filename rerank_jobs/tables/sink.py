"""Parquet out: the same rows give the same bytes, whatever batches they came in.

Determinism holds for one pyarrow version (its name stands in each file's ``created_by``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.tables.maps import holds_map, restore

__all__ = ["choose_row_group", "plain_schema", "rebatch", "write_parquet"]

ROW_GROUP_BYTES = 48 << 20
ROW_GROUP_ROWS = 65_536


def choose_row_group(row_bytes: int) -> int:
    """Return rows per row group for rows of this mean size: about 48 MiB, at most 65,536 rows."""
    return max(256, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(1, row_bytes)))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return ``schema`` with dictionary columns as their values, which Parquet stores the same."""
    return pa.schema(
        [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in schema
        ]
    )


def rebatch(batches: Iterable[pa.RecordBatch | pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield tables of exactly ``rows`` rows (the last one shorter), in order."""
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        held.append(table)
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows)
            rest = whole.slice(rows)
            held, count = [rest], rest.num_rows
    if count:
        yield pa.concat_tables(held)


def write_parquet(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table], *, row_group: int
) -> int:
    """Write rows (cast to ``schema``) as zstd Parquet with page checksums; return their count."""
    count = 0
    with pq.ParquetWriter(
        path, schema, compression="zstd", write_page_checksum=True, write_statistics=True
    ) as writer:
        for table in rebatch(batches, row_group):
            writer.write_table(_fit(table.combine_chunks(), schema), row_group_size=row_group)
            count += table.num_rows
    return count


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast a table to ``schema``, maps restored from the lists that they travelled as."""
    columns = [_fit_column(table.column(field.name), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _fit_column(column: pa.ChunkedArray[Any], kind: pa.DataType) -> pa.ChunkedArray[Any]:
    if column.type == kind:
        return column
    if holds_map(kind):
        chunks = [restore(chunk, kind) for chunk in column.chunks]
        # The stubs list concrete types only.
        restored: pa.ChunkedArray[Any] = pa.chunked_array(chunks, kind)  # type: ignore[call-overload]
        return restored
    return column.cast(kind)
