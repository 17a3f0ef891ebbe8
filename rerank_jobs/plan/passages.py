"""Passages: every (query, document) pair that needs a score, as the texts that will be sent.

A shard's pairs come out of DuckDB ordered by query, first-stage rank and document; whole batches
are estimated at once, and only documents over the context are touched one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rerank_jobs.config import Context, Job
from rerank_jobs.plan.cluster import document_is_text, stream
from rerank_jobs.plan.identity import compute_key
from rerank_jobs.plan.packing import billing_chunks
from rerank_jobs.plan.tokens import QUERY_CUT, estimate_tokens
from rerank_jobs.plan.windows import cut_windows, passage_limit, truncate
from rerank_jobs.plan.work import ShardWriters, narrow_joins, read_batches, split_by_shard
from rerank_jobs.tables.sources import ROW, InputTable, quote

__all__ = ["OVER_CONTEXT", "PASSAGES", "write_passages"]

OVER_CONTEXT = "over_context"
"""Error code of a document longer than the context under ``long_documents: fail``."""

PASSAGES = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the columns to object
        ("query_key", pa.binary(16)),
        ("query", pa.string()),
        ("doc_key", pa.binary(16)),
        ("window", pa.int32()),
        ("windows", pa.int32()),
        ("truncated", pa.bool_()),
        ("passage_key", pa.binary(16)),
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("chunks", pa.int32()),
        ("error", pa.string()),
    ]
)

CUT_BYTES = 16 << 20

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Long:
    """What became of one document over the context: its passages, or an error."""

    texts: tuple[str, ...]
    truncated: bool
    error: str | None


def write_passages(
    con: duckdb.DuckDBPyConnection,
    table: InputTable,
    job: Job,
    salt: bytes,
    out: ShardWriters,
    document_bytes: int,
) -> int:
    """Write the ``passages`` files and the narrow table ``sends``; return the number of pairs.

    ``sends(ord, shard, query_key, passage_key, chunks, error)`` has one row per passage in order.
    """
    con.execute("""CREATE TABLE pairs AS SELECT shard, query_key, doc_key, min(ref) AS ref,
        min(fs_rank) AS fs_rank FROM ranked WHERE n > 1 GROUP BY shard, query_key, doc_key""")
    con.execute("""CREATE TABLE sends(ord BIGINT, shard INTEGER, query_key BLOB, passage_key BLOB,
        chunks INTEGER, error VARCHAR)""")
    pairs = _write_pairs(con, table, job, out, document_bytes)
    written = 0
    for shard in range(out.shards):
        for batch in _sorted_pairs(con, out, shard, document_bytes):
            for piece in _slice(batch, document_bytes):
                passages = _cut(piece, job.context, salt)
                out.write(shard, passages)
                _note_sends(con, passages, shard, written)
                written += passages.num_rows
        _pairs_of(out).path(shard).unlink()
    con.execute("DROP TABLE pairs")
    return pairs


_PAIRS = pa.schema(
    [
        ("query_key", pa.binary()),
        ("doc_key", pa.binary()),
        ("fs_rank", pa.int32()),
        ("text", pa.string()),
    ]
)


def _pairs_of(out: ShardWriters) -> ShardWriters:
    return ShardWriters(out.folder, "pairs", _PAIRS, out.shards)


def _write_pairs(
    con: duckdb.DuckDBPyConnection,
    table: InputTable,
    job: Job,
    out: ShardWriters,
    document_bytes: int,
) -> int:
    """Join texts to pairs as they come, a file per shard: sorting all texts at once takes memory."""
    count = 0
    with _pairs_of(out) as files, narrow_joins(con):
        for batch in stream(con, _pairs_sql(table, job), document_bytes):
            for shard, part in split_by_shard(batch):
                files.write(shard, part)
            count += batch.num_rows
    return count


def _sorted_pairs(
    con: duckdb.DuckDBPyConnection, out: ShardWriters, shard: int, document_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield a shard's pairs with their query texts, by query, first-stage rank and document."""
    reader = con.cursor()
    # A batch reader, not a data set: that one would read many batches ahead.
    batches = read_batches(_pairs_of(out).path(shard))
    reader.register("shard_pairs", pa.RecordBatchReader.from_batches(_PAIRS, batches))
    query = """SELECT p.query_key, q.query, p.doc_key, p.text FROM shard_pairs AS p
        JOIN queries AS q ON p.query_key = q.query_key
        ORDER BY p.query_key, p.fs_rank, p.doc_key"""
    yield from stream(reader, query, document_bytes)
    reader.close()


def _slice(batch: pa.RecordBatch, document_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield pieces of about ``CUT_BYTES``: cutting holds several copies of its texts."""
    rows = max(1, CUT_BYTES // max(1, document_bytes))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _pairs_sql(table: InputTable, job: Job) -> str:
    columns = job.input.columns
    text = f"t.{quote(columns.document[0])}"
    if not document_is_text(table, job):
        source, text = "rendered AS t JOIN pairs AS p ON t.doc_key = p.doc_key", "t.text"
    elif job.input.layout == "long":
        source = f"src AS t JOIN pairs AS p ON t.{ROW} = p.ref"
    else:
        source = "candidates AS t JOIN pairs AS p ON t.ref = p.ref"
    return f"SELECT p.shard, p.query_key, p.doc_key, p.fs_rank, {text} AS text FROM {source}"


def _note_sends(
    con: duckdb.DuckDBPyConnection, passages: pa.RecordBatch, shard: int, written: int
) -> None:
    count = passages.num_rows
    narrow = pa.table(
        {
            "ord": pa.array(np.arange(written, written + count)),
            "shard": pa.array(np.full(count, shard, dtype=np.int32)),
            **{name: passages.column(name) for name in ("query_key", "passage_key", "chunks", "error")},
        }
    )
    con.register("new_sends", narrow)
    con.execute("INSERT INTO sends SELECT * FROM new_sends")
    con.unregister("new_sends")


def _cut(batch: pa.RecordBatch, context: Context, salt: bytes) -> pa.RecordBatch:
    """Turn pairs into passages: documents within the context as they are, longer ones cut."""
    query_tokens = _query_tokens(batch.column("query"))
    tokens = estimate_tokens(batch.column("text"))
    limits = passage_limit(context.tokens, 0) - query_tokens
    over = np.flatnonzero(tokens > limits)
    count = batch.num_rows
    if len(over) == 0:
        index, texts, keys = np.arange(count), batch.column("text"), batch.column("doc_key")
        cut: list[_Long] = []
    else:
        documents = batch.column("text").take(pa.array(over)).to_pylist()
        cut = [
            _cut_document(text, int(limit), context)
            for text, limit in zip(documents, limits[over], strict=True)
        ]
        index, texts, keys = _splice(batch, over, cut, salt)
        tokens = estimate_tokens(texts)
    return _assemble(batch, index, over, cut, texts, keys, query_tokens[index], tokens)


def _query_tokens(queries: pa.Array) -> IntArray:
    coded = queries.dictionary_encode()
    distinct = np.minimum(estimate_tokens(coded.dictionary), QUERY_CUT)
    found: IntArray = distinct[coded.indices.to_numpy(zero_copy_only=False)].astype(np.int64)
    return found


def _cut_document(text: str, limit: int, context: Context) -> _Long:
    if context.long_documents == "fail":
        return _Long((truncate(text, limit),), truncated=False, error=OVER_CONTEXT)
    if context.long_documents == "truncate":
        return _Long((truncate(text, limit),), truncated=True, error=None)
    overlap = min(context.overlap_tokens, limit // 4)
    return _Long(tuple(cut_windows(text, limit, overlap)), truncated=False, error=None)


def _splice(
    batch: pa.RecordBatch, over: IntArray, cut: list[_Long], salt: bytes
) -> tuple[IntArray, pa.Array, pa.Array]:
    """Return (row of the batch, text, key) of each passage, long documents replaced by theirs."""
    counts = np.ones(batch.num_rows, dtype=np.int64)
    counts[over] = [len(item.texts) for item in cut]
    index = np.repeat(np.arange(batch.num_rows), counts)
    new_texts = [text for item in cut for text in item.texts]
    is_long = np.zeros(batch.num_rows, dtype=bool)
    is_long[over] = True
    source = index.copy()
    source[is_long[index]] = batch.num_rows + np.arange(len(new_texts))
    take = pa.array(source)
    text_type = batch.column("text").type
    key_type = batch.column("doc_key").type
    new_keys = [compute_key(salt, text) for text in new_texts]
    texts = pa.concat_arrays([batch.column("text"), pa.array(new_texts, text_type)]).take(take)
    keys = pa.concat_arrays([batch.column("doc_key"), pa.array(new_keys, key_type)]).take(take)
    return index, texts, keys


def _assemble(
    batch: pa.RecordBatch,
    index: IntArray,
    over: IntArray,
    cut: list[_Long],
    texts: pa.Array,
    keys: pa.Array,
    query_tokens: IntArray,
    tokens: IntArray,
) -> pa.RecordBatch:
    counts = np.bincount(index, minlength=batch.num_rows)
    starts = np.cumsum(counts) - counts
    truncated = np.zeros(batch.num_rows, dtype=bool)
    errors: list[str | None] = [None] * batch.num_rows
    for row, item in zip(over, cut, strict=True):
        truncated[row] = item.truncated
        errors[row] = item.error
    take = pa.array(index)
    columns = {
        "query_key": batch.column("query_key").take(take),
        "query": batch.column("query").take(take),
        "doc_key": batch.column("doc_key").take(take),
        "window": pa.array((np.arange(len(index)) - starts[index]).astype(np.int32)),
        "windows": pa.array(counts[index].astype(np.int32)),
        "truncated": pa.array(truncated[index]),
        "passage_key": keys,
        "text": texts,
        "tokens": pa.array((tokens + query_tokens).astype(np.int32)),
        "chunks": pa.array(billing_chunks(query_tokens, tokens).astype(np.int32)),
        "error": pa.array(errors, pa.string()).take(take),
    }
    return pa.RecordBatch.from_pydict(columns)
