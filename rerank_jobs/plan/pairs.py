"""Pairs in order: texts joined as they come, then read back in the order of their queries.

Only keys are sorted. Sorting the texts with them takes the memory of a whole shard; here they lie
in a file that is mapped, and a block of them is taken at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.plan.cluster import stream
from rerank_jobs.plan.work import ShardWriters, narrow_joins, split_by_shard
from rerank_jobs.tables.mapped import MappedRows

__all__ = ["sort_pairs", "write_pairs"]

_KEYS = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the fields to object
        pa.field("query_key", pa.binary()),
        pa.field("doc_key", pa.binary()),
        pa.field("fs_rank", pa.int32()),
        pa.field("sent", pa.bool_()),
    ]
)
_TEXTS = pa.schema([pa.field("text", pa.string())])


def write_pairs(
    con: duckdb.DuckDBPyConnection, query: str, folder: Path, shards: int, document_bytes: int
) -> int:
    """Write keys and texts of ``query`` (shard, keys, fs_rank, sent, text) a file each per shard.

    Returns the number of pairs that are sent.
    """
    count = 0
    keys = ShardWriters(folder, "keys", _KEYS, shards)
    texts = ShardWriters(folder, "texts", _TEXTS, shards, compression=None)
    with keys, texts, narrow_joins(con):
        for batch in stream(con, query, document_bytes):
            for shard, part in split_by_shard(batch):
                keys.write(shard, part)
                texts.write(shard, part)
            count += pc.sum(batch.column("sent")).as_py() or 0
    return count


def sort_pairs(
    con: duckdb.DuckDBPyConnection, folder: Path, shard: int, rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield a shard's pairs by query, first-stage rank and document, at most ``rows`` at a time.

    Columns: query_key, query, doc_key, sent, text. The shard's files are removed at the end.
    """
    keys_path = ShardWriters(folder, "keys", _KEYS, 0).path(shard)
    texts_path = ShardWriters(folder, "texts", _TEXTS, 0).path(shard)
    with con.cursor() as reader, pa.memory_map(str(texts_path)) as source:
        texts = MappedRows(source)
        reader.register("shard_keys", _number(keys_path))
        query = """SELECT k.query_key, q.query, k.doc_key, k.sent, k.position FROM shard_keys AS k
            JOIN queries AS q ON k.query_key = q.query_key
            ORDER BY k.query_key, k.fs_rank, k.doc_key"""
        for batch in stream(reader, query):
            for start in range(0, batch.num_rows, rows):
                yield _attach(texts, batch.slice(start, rows))
    keys_path.unlink()
    texts_path.unlink()


def _number(path: Path) -> pa.Table:
    """Read a shard's keys and number them as they stand."""
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
        table = reader.read_all()
    return table.append_column("position", pa.array(np.arange(table.num_rows)))


def _attach(texts: MappedRows, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with its texts in place of their positions."""
    (chunk,) = texts.take(batch.column("position").to_numpy()).column("text").chunks
    names = ["query_key", "query", "doc_key", "sent"]
    columns = [batch.column(name) for name in names]
    return pa.RecordBatch.from_arrays([*columns, chunk], names=[*names, "text"])
