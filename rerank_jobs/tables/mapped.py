"""Rows where they lie: an uncompressed Arrow file, mapped, whose rows are taken in any order.

Memory holds what is taken, not the file: the system keeps or drops its pages as it likes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["MappedRows"]

IntArray = npt.NDArray[np.int64]


class MappedRows:
    """The rows of a mapped Arrow file, by position; valid as long as ``source`` is open."""

    def __init__(self, source: pa.MemoryMappedFile) -> None:
        """Read where each batch begins."""
        reader = pa.ipc.open_file(source)
        self.schema = reader.schema
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def column(self, name: str) -> pa.ChunkedArray[Any]:
        """Return one column of all rows."""
        kind = self.schema.field(name).type
        return pa.chunked_array([batch.column(name) for batch in self._batches], kind)

    def take(self, positions: IntArray) -> pa.Table:
        """Return the rows at ``positions``, in that order, as one chunk."""
        if len(positions) == 0:
            return self.schema.empty_table()
        home = np.searchsorted(self._ends, positions, side="right")
        by_home = np.argsort(home, kind="stable")
        parts = []
        for number in np.unique(home):
            batch = self._batches[number]
            mine = positions[by_home[home[by_home] == number]]
            parts.append(batch.take(mine - (self._ends[number] - batch.num_rows)))
        back = np.empty(len(by_home), dtype=np.int64)
        back[by_home] = np.arange(len(by_home))
        return pa.Table.from_batches(parts).combine_chunks().take(back)
