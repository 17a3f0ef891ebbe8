"""Work files: what a shard needs, and nothing of other shards, as lz4 Arrow IPC files.

    rows        every input column and ``_rj_row``: the rows that go to the output
    candidates  ref, row, grp, fs_rank, n, query_key, doc_key: what is ranked
    passages    the texts to score in the order of their queries, with keys, windows and weights
    schedule    aligned with ``passages`` row by row: the request that sends it, or the score reused

No stage after planning reads the input again. Work files hold text: they go when the plan is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.config import Job
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.plan.cluster import stream
from rerank_jobs.tables.maps import lists_for_maps
from rerank_jobs.tables.sink import choose_row_group, plain_schema, write_parquet
from rerank_jobs.tables.sources import ELEMENT_MASK, ROW, InputTable, quote

__all__ = [
    "ShardWriters",
    "narrow_joins",
    "read_batches",
    "split_by_shard",
    "write_candidates",
    "write_rejected",
    "write_rows",
]


@dataclass
class ShardWriters:
    """One IPC file per shard under ``folder``; every shard gets one, be it empty."""

    folder: Path
    kind: str
    schema: pa.Schema
    shards: int
    compression: Literal["lz4"] | None = "lz4"
    _open: list[pa.ipc.RecordBatchFileWriter] = field(default_factory=list)

    def path(self, shard: int) -> Path:
        """Return where a shard's file stands."""
        return self.folder / f"{shard:05d}.{self.kind}.arrow"

    def __enter__(self) -> Self:
        """Create all files."""
        options = pa.ipc.IpcWriteOptions(compression=self.compression)
        for shard in range(self.shards):
            path = str(self.path(shard))
            self._open.append(pa.ipc.new_file(path, self.schema, options=options))
        return self

    def write(self, shard: int, batch: pa.RecordBatch | pa.Table) -> None:
        """Append rows, cast to the schema."""
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        self._open[shard].write_table(table.select(self.schema.names).cast(self.schema))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish all files."""
        with contextlib.ExitStack() as stack:
            for writer in self._open:
                stack.callback(writer.close)


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a work file without holding the file in memory."""
    with pa.OSFile(str(path), "r") as source, pa.ipc.open_file(source) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


SHARD = "_rj_shard"
"""The shard of a row, beside columns of the user's."""


def split_by_shard(
    batch: pa.RecordBatch, column: str = "shard"
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (shard, its rows in order) of a batch with an integer column of shards."""
    shards = batch.column(column).to_numpy(zero_copy_only=False)
    if len(shards) == 0:
        return
    order = np.argsort(shards, kind="stable")
    sorted_shards = shards[order]
    starts = np.flatnonzero(np.diff(sorted_shards, prepend=sorted_shards[0] - 1))
    if len(starts) == 1:
        yield int(sorted_shards[0]), batch
        return
    arranged = batch.take(order)
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        yield int(sorted_shards[start]), arranged.slice(int(start), int(stop - start))


NO_STATISTICS = "statistics_propagation"
"""Optimizer that is never used: Parquet statistics leave NaN out, and by them isnan() is false."""


@contextlib.contextmanager
def narrow_joins(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Build hash tables from the right-hand side as written, which is the narrow one.

    Left to itself the optimizer may build them from the side that carries the texts.
    """
    con.execute(f"SET disabled_optimizers = '{NO_STATISTICS},join_order,build_side_probe_side'")
    try:
        yield
    finally:
        con.execute(f"SET disabled_optimizers = '{NO_STATISTICS}'")


def write_rows(con: duckdb.DuckDBPyConnection, job: Job, out: ShardWriters, row_bytes: int) -> None:
    """Write the rows that stay, every input column of them."""
    kept = "ranked" if job.input.layout == "long" else "row_keys"
    query = f"SELECT s.*, r.shard AS {SHARD} FROM src AS s JOIN {kept} AS r ON s.{ROW} = r.row"
    with narrow_joins(con):
        for batch in stream(con, query, row_bytes):
            for shard, part in split_by_shard(batch, SHARD):
                out.write(shard, part)


def rows_schema(table: InputTable) -> pa.Schema:
    """Return the schema of the ``rows`` file: every input column, maps as lists of structs."""
    fields = [field.with_type(lists_for_maps(field.type)) for field in plain_schema(table.schema)]
    return pa.schema([*fields, pa.field(ROW, pa.int64())])


CANDIDATES = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the columns to object
        ("ref", pa.int64()),
        ("row", pa.int64()),
        ("grp", pa.int64()),
        ("fs_rank", pa.int32()),
        ("n", pa.int32()),
        ("query_key", pa.binary(16)),
        ("doc_key", pa.binary(16)),
    ]
)


def write_candidates(con: duckdb.DuckDBPyConnection, out: ShardWriters) -> None:
    """Write what is ranked."""
    for batch in stream(con, f"SELECT {', '.join(CANDIDATES.names)}, shard FROM ranked"):
        for shard, part in split_by_shard(batch):
            out.write(shard, part)


def write_rejected(
    con: duckdb.DuckDBPyConnection, table: InputTable, job: Job, path: Path, row_bytes: int
) -> int:
    """Write the rejected table to ``path``; return its rows (0: no file is written)."""
    found = con.execute("SELECT count(*) FROM rejected").fetchone()
    if not found or not found[0]:
        return 0
    lists = job.input.columns.candidates
    columns = [f"s.{quote(name)}" for name in table.schema.names]
    if lists is not None:
        element = f"(r.ref & {ELEMENT_MASK}) + 1"
        whole = f"s.{quote(lists)}"
        one = f"CASE WHEN r.ref IS NULL THEN {whole} ELSE [{whole}[{element}]] END"
        columns[table.schema.names.index(lists)] = f"{one} AS {quote(lists)}"
    query = f"""SELECT {", ".join(columns)}, r.row AS {ROW}, r.reason AS rerank_reason,
        CASE WHEN {"false" if lists is None else "r.ref IS NOT NULL"}
            THEN 'candidate' ELSE 'row' END AS rerank_rejected
        FROM src AS s JOIN rejected AS r ON s.{ROW} = r.row ORDER BY r.row, r.ref"""
    schema = pa.schema([*plain_schema(table.schema), *arrow_schema("rejected")])
    with narrow_joins(con):
        batches = (_add_source(batch, table) for batch in stream(con, query, row_bytes))
        return write_parquet(path, schema, batches, row_group=choose_row_group(row_bytes))


def _add_source(batch: pa.RecordBatch, table: InputTable) -> pa.Table:
    numbers: list[Any] = batch.column(ROW).to_pylist()
    located = [table.locate(number) for number in numbers]
    found = pa.Table.from_batches([batch])
    found = found.append_column(
        "rerank_source_file", pa.array([name for name, _ in located], pa.string())
    )
    rows = pa.array([row for _, row in located], pa.int64())
    return found.append_column("rerank_source_row", pc.cast(rows, pa.int64()))
