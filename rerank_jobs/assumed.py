"""Assumed pairs: what earlier plans of a range would pay for, so that the next is not priced twice.

They are a folder of Parquet files of key pairs: nothing of them is held in memory, and the library
itself is never told of them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.parts import iterate_work
from rerank_jobs.plan.build import Draft
from rerank_jobs.plan.frozen import Plan
from rerank_jobs.plan.work import read_batches
from rerank_jobs.storage import Store
from rerank_jobs.tables.sources import quote_text

__all__ = ["add_assumed", "assume_draft", "assume_plan"]

PAIRS = pa.schema([("query_key", pa.binary(16)), ("passage_key", pa.binary(16))])

_Read: TypeAlias = Callable[[str], Iterator[pa.RecordBatch]]


def assume_draft(folder: Path, draft: Draft) -> None:
    """Write down the pairs that a draft would send."""

    def read(shard: int, kind: str) -> Iterator[pa.RecordBatch]:
        return read_batches(draft.work_file(kind, shard))

    _write_sends(folder, [functools.partial(read, shard) for shard in range(len(draft.prices))])


def assume_plan(folder: Path, store: Store, plan: Plan) -> None:
    """Write down the pairs that a frozen plan sends, or has sent."""

    def read(shard: int, kind: str) -> Iterator[pa.RecordBatch]:
        return iterate_work(store, plan.shards[shard].files[kind])

    _write_sends(folder, [functools.partial(read, shard) for shard in range(len(plan.shards))])


def add_assumed(library: str | None, folder: Path) -> str | None:
    """Return a query of the library's scores and, as if they had one, of the assumed pairs.

    It asks for what ``write_schedule`` does: one row a pair of the table ``sends``.
    """
    files = ", ".join(quote_text(str(path)) for path in sorted(folder.glob("*.parquet")))
    if not files:
        return library
    columns = "query_key, passage_key, score, model, provider, parts"
    assumed = f"""SELECT query_key, passage_key, 0.0::DOUBLE AS score, NULL::VARCHAR AS model,
        NULL::VARCHAR AS provider, NULL::INTEGER AS parts
        FROM read_parquet([{files}]) SEMI JOIN sends USING (query_key, passage_key)"""
    both = assumed if library is None else f"SELECT {columns} FROM ({library}) UNION ALL {assumed}"
    return f"""SELECT query_key, passage_key, max(score) AS score, any_value(model) AS model,
        any_value(provider) AS provider, max(parts) AS parts
        FROM ({both}) GROUP BY query_key, passage_key"""


def _write_sends(folder: Path, shards: list[_Read]) -> None:
    number = len(list(folder.glob("*.parquet")))
    with pq.ParquetWriter(folder / f"{number:06d}.parquet", PAIRS) as out:
        for read in shards:
            requests = _flatten(read("schedule"))
            for batch in read("passages"):
                numbers = pa.array(itertools.islice(requests, batch.num_rows), pa.int32())
                keys = batch.select(PAIRS.names).filter(
                    pc.greater_equal(numbers, pa.scalar(0, pa.int32()))
                )
                out.write_table(pa.Table.from_batches([keys]).cast(PAIRS))


def _flatten(batches: Iterator[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        numbers: list[Any] = batch.column("request").to_pylist()
        yield from numbers
