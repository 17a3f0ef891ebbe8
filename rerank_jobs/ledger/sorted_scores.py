"""Sorted files of scores: written from tables, and merged in one pass with bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.tables.sink import rebatch

__all__ = ["iterate_merged", "merge_sorted", "sort_scores", "write_scores"]

ROW_GROUP = 65_536

READ_ROWS = 16_384
"""Rows of each file that are in memory while files are merged."""

Keys: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bytes_]]"


def sort_scores(scores: pa.Table) -> pa.Table:
    """Sort scores by (query_key, passage_key); of each pair the newest stays, then the highest."""
    if scores.num_rows == 0:
        return scores
    keys = _read_keys(scores)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.ones(len(keys), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    if not first.all():
        instants = scores.column("received_at").cast(pa.int64()).to_numpy()
        values = scores.column("score").to_numpy()
        group = np.cumsum(first)
        # Sorted by group already: the last key decides, and lexsort is stable.
        order = order[np.lexsort((-values[order], -instants[order], group))]
        order = order[first]
    return scores.take(order).combine_chunks()


def write_scores(path: Path, tables: Iterator[pa.Table]) -> int:
    """Write sorted scores as Parquet with page checksums; return how many.

    Random keys do not get smaller by compression, and models and providers repeat.
    """
    count = 0
    with pq.ParquetWriter(
        path,
        arrow_schema("library"),
        compression="zstd",
        use_dictionary=["query_key", "model", "provider", "received_at"],  # type: ignore[arg-type]  # the stubs know no list
        write_page_checksum=True,
    ) as writer:
        for table in rebatch(tables, ROW_GROUP):
            writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP)
            count += table.num_rows
    return count


def merge_sorted(paths: Sequence[Path], target: Path) -> int:
    """Merge sorted files into one, the newest score of each pair; return its rows."""
    return write_scores(target, iterate_merged(paths))


def iterate_merged(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the scores of sorted files in order of their keys, the newest of each pair.

    At most ``READ_ROWS`` rows of each file are held, besides the compressed pages that they are
    read from.
    """
    with contextlib.ExitStack() as stack:
        yield from _merge([_Run(_read(stack, path)) for path in paths])


@dataclass(slots=True)
class _Run:
    """One sorted file while it is merged: its next rows and their keys."""

    batches: Iterator[pa.Table]
    table: pa.Table | None = None
    keys: Keys | None = None

    def fill(self) -> bool:
        """Read on if nothing is held; say whether there is anything."""
        while self.table is None or self.table.num_rows == 0:
            table = next(self.batches, None)
            if table is None:
                return False
            self.table, self.keys = table, _read_keys(table)
        return True

    def take(self, last: bytes) -> pa.Table:
        """Take the rows up to the key ``last``."""
        if self.table is None or self.keys is None:
            raise AssertionError("a run is filled before it is taken from")
        count = int(np.searchsorted(self.keys, np.bytes_(last), side="right"))
        taken = self.table.slice(0, count)
        self.table, self.keys = self.table.slice(count), self.keys[count:]
        return taken


def _merge(runs: list[_Run]) -> Iterator[pa.Table]:
    """Yield sorted tables: what no row that is yet to be read can come before."""
    while runs := [run for run in runs if run.fill()]:
        last = min(run.keys[-1] for run in runs if run.keys is not None)
        yield sort_scores(pa.concat_tables([run.take(last) for run in runs]))


def _read(stack: contextlib.ExitStack, path: Path) -> Iterator[pa.Table]:
    schema = arrow_schema("library")
    file = stack.enter_context(
        pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=1 << 16)
    )
    for batch in file.iter_batches(READ_ROWS, use_threads=False):
        table = pa.Table.from_batches([batch])
        if "parts" not in table.schema.names:
            table = table.append_column("parts", pa.nulls(table.num_rows, pa.int32()))
        yield table.select(schema.names).cast(schema)


def _read_keys(scores: pa.Table) -> Keys:
    """Return query key and passage key of each row, one behind the other."""
    both = [_read_bytes(scores.column(name)) for name in ("query_key", "passage_key")]
    joined = np.ascontiguousarray(np.concatenate(both, axis=1))
    keys: Keys = joined.view("S32").ravel()
    return keys


def _read_bytes(
    column: pa.ChunkedArray[Any],
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    array = column.combine_chunks()
    # The stubs do not know that an Arrow buffer is a bytes-like object.
    data = np.frombuffer(array.buffers()[1], dtype=np.uint8)  # type: ignore[call-overload]
    rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]] = data.reshape(-1, 16)
    return rows[array.offset : array.offset + len(array)]
