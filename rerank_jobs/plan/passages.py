"""Passages: every (query, document) pair that needs a score, as the texts that will be sent.

A shard's pairs come out of DuckDB ordered by query, first-stage rank and document; whole batches
are counted at once, and only documents over the context are touched one by one. The only candidate
of a group is counted too, for the naive price, but is no passage: it is ranked for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.config import Context, Job
from rerank_jobs.plan.cluster import REF, STREAM_ROWS, document_is_text
from rerank_jobs.plan.counting import TokenCounter
from rerank_jobs.plan.identity import compute_keys
from rerank_jobs.plan.packing import billing_chunks
from rerank_jobs.plan.pairs import sort_pairs, write_pairs
from rerank_jobs.plan.windows import passage_limit, query_cut
from rerank_jobs.plan.work import ShardWriters
from rerank_jobs.tables.sources import ROW, InputTable, quote

__all__ = ["OVER_CONTEXT", "PASSAGES", "count_query_tokens", "write_passages"]

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
"""Text that is cut at once: cutting holds several copies of it."""

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
    counter: TokenCounter,
) -> int:
    """Write the ``passages`` files and the narrow table ``sends``; return the number of pairs.

    ``sends`` (see the statement that creates it) has one row per passage in order, and one of each
    part of an only candidate, not ``sent``; ``tokens`` include ``query_tokens``.
    """
    con.execute("""CREATE TABLE pairs AS SELECT shard, query_key, doc_key, min(ref) AS ref,
        min(fs_rank) AS fs_rank, max(n) > 1 AS sent FROM ranked
        GROUP BY shard, query_key, doc_key""")
    con.execute("""CREATE TABLE sends(ord BIGINT, shard INTEGER, query_key BLOB, doc_key BLOB,
        passage_key BLOB, chunks INTEGER, tokens INTEGER, query_tokens INTEGER, error VARCHAR,
        sent BOOLEAN)""")
    pairs = write_pairs(con, _pairs_sql(table, job), out.folder, out.shards, document_bytes)
    con.execute("DROP TABLE pairs")
    rows = max(1, min(STREAM_ROWS, CUT_BYTES // max(1, document_bytes)))
    written = 0
    for shard in range(out.shards):
        for batch in sort_pairs(con, out.folder, shard, rows):
            passages = _cut(batch, job.context, salt, counter)
            sent = passages.column("sent")
            out.write(shard, passages if pc.all(sent).as_py() else passages.filter(sent))
            _note_sends(con, passages, shard, written)
            written += passages.num_rows
    return pairs


def _pairs_sql(table: InputTable, job: Job) -> str:
    columns = job.input.columns
    text = f"t.{quote(columns.document[0])}"
    if not document_is_text(table, job):
        source, text = "rendered AS t JOIN pairs AS p ON t.doc_key = p.doc_key", "t.text"
    elif job.input.layout == "long":
        source = f"src AS t JOIN pairs AS p ON t.{ROW} = p.ref"
    else:
        source = f"candidates AS t JOIN pairs AS p ON t.{REF} = p.ref"
    return (
        f"SELECT p.shard, p.query_key, p.doc_key, p.fs_rank, p.sent, {text} AS text FROM {source}"
    )


def _note_sends(
    con: duckdb.DuckDBPyConnection, passages: pa.RecordBatch, shard: int, written: int
) -> None:
    count = passages.num_rows
    names = ("query_key", "doc_key", "passage_key", "chunks", "tokens", "query_tokens", "error")
    narrow = pa.table(
        {
            "ord": pa.array(np.arange(written, written + count)),
            "shard": pa.array(np.full(count, shard, dtype=np.int32)),
            **{name: passages.column(name) for name in (*names, "sent")},
        }
    )
    con.register("new_sends", narrow)
    con.execute("INSERT INTO sends SELECT * FROM new_sends")
    con.unregister("new_sends")


def _cut(
    batch: pa.RecordBatch, context: Context, salt: bytes, counter: TokenCounter
) -> pa.RecordBatch:
    """Turn pairs into passages: documents within the context as they are, longer ones cut."""
    query_tokens = count_query_tokens(batch.column("query"), context, counter)
    tokens = counter.count(batch.column("text"))
    limits = passage_limit(context.tokens, query_tokens)
    over = np.flatnonzero(tokens > limits)
    count = batch.num_rows
    if len(over) == 0:
        index, texts, keys = np.arange(count), batch.column("text"), batch.column("doc_key")
        cut: list[_Long] = []
    else:
        documents: list[Any] = batch.column("text").take(over).to_pylist()
        cut = [
            _cut_document(text, int(limit), context, counter)
            for text, limit in zip(documents, limits[over], strict=True)
        ]
        index, texts, keys = _splice(batch, over, cut, salt)
        tokens = counter.count(texts)
    return _assemble(batch, index, over, cut, texts, keys, query_tokens[index], tokens)


def count_query_tokens(queries: pa.Array[Any], context: Context, counter: TokenCounter) -> IntArray:
    """Return the tokens of each query, as many of them as the provider takes."""
    coded = queries.dictionary_encode()
    distinct = np.minimum(counter.count(coded.dictionary), query_cut(context.tokens))
    found: IntArray = distinct[coded.indices.to_numpy(zero_copy_only=False)].astype(np.int64)
    return found


def _cut_document(text: str, limit: int, context: Context, counter: TokenCounter) -> _Long:
    if context.long_documents == "fail":
        return _Long((counter.truncate(text, limit),), truncated=False, error=OVER_CONTEXT)
    if context.long_documents == "truncate":
        return _Long((counter.truncate(text, limit),), truncated=True, error=None)
    overlap = min(context.overlap_tokens, limit // 4)
    return _Long(tuple(counter.cut(text, limit, overlap)), truncated=False, error=None)


def _splice(
    batch: pa.RecordBatch, over: IntArray, cut: list[_Long], salt: bytes
) -> tuple[IntArray, pa.Array[Any], pa.Array[Any]]:
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
    new_keys = compute_keys(salt, new_texts)
    texts = pa.concat_arrays([batch.column("text"), pa.array(new_texts, text_type)]).take(take)
    keys = pa.concat_arrays([batch.column("doc_key"), pa.array(new_keys, key_type)]).take(take)
    return index, texts, keys


def _assemble(
    batch: pa.RecordBatch,
    index: IntArray,
    over: IntArray,
    cut: list[_Long],
    texts: pa.Array[Any],
    keys: pa.Array[Any],
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
    columns = {
        "query_key": batch.column("query_key").take(index),
        "query": batch.column("query").take(index),
        "doc_key": batch.column("doc_key").take(index),
        "window": pa.array((np.arange(len(index)) - starts[index]).astype(np.int32)),
        "windows": pa.array(counts[index].astype(np.int32)),
        "truncated": pa.array(truncated[index]),
        "passage_key": keys,
        "text": texts,
        "tokens": pa.array((tokens + query_tokens).astype(np.int32)),
        "chunks": pa.array(billing_chunks(query_tokens, tokens).astype(np.int32)),
        "error": pa.array(errors, pa.string()).take(index),
        "query_tokens": pa.array(query_tokens.astype(np.int32)),
        "sent": batch.column("sent").take(index),
    }
    return pa.RecordBatch.from_pydict(columns)
