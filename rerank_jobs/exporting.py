"""Exporting scores: by key from the library, or beside their texts, for another state root.

Keys are salted, so that they mean nothing elsewhere. What is to travel goes with the texts of a
published table, which still holds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rerank_jobs.config import Job
from rerank_jobs.embedded import identify_scorer
from rerank_jobs.errors import JobError, StateError
from rerank_jobs.ledger.library import fetch_library, find_scores, read_library
from rerank_jobs.ledger.sorted_scores import iterate_merged
from rerank_jobs.plan.build import connect, count_shards
from rerank_jobs.plan.cluster import cluster
from rerank_jobs.plan.counting import ESTIMATE
from rerank_jobs.plan.passages import PASSAGES, write_passages
from rerank_jobs.plan.tokenizer import make_counter, read_tokenizer
from rerank_jobs.plan.work import ShardWriters, read_batches
from rerank_jobs.publish.generations import read_current
from rerank_jobs.storage import open_store, scratch_folder
from rerank_jobs.tables.sources import read_files
from rerank_jobs.upkeep import prepare_state

__all__ = ["export_keys", "export_texts"]

KEYS = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the columns to object
        ("query_key", pa.string()),
        ("passage_key", pa.string()),
        ("score", pa.float64()),
        ("model", pa.string()),
        ("provider", pa.string()),
        ("date", pa.timestamp("us", tz="UTC")),
        ("parts", pa.int32()),
    ]
)
TEXTS = pa.schema(
    [  # type: ignore[arg-type]  # mypy joins the types of the columns to object
        ("query", pa.string()),
        ("document", pa.string()),
        ("window", pa.int32()),
        ("windows", pa.int32()),
        ("score", pa.float64()),
        ("model", pa.string()),
        ("provider", pa.string()),
        ("date", pa.timestamp("us", tz="UTC")),
        ("parts", pa.int32()),
    ]
)


def export_keys(job: Job, target: Path) -> int:
    """Write every score of the job's scorer, the newest per pair, keys in hex; return the count.

    Raises:
        JobError: the target is neither .parquet nor .csv, or is there already.
        StateError: the library is damaged.

    """
    store = open_store(job.state_root)
    library = read_library(store, identify_scorer(job))
    tables = (_show_keys(table) for table in iterate_merged(fetch_library(store, library)))
    return _write(target, KEYS, tables)


def export_texts(job: Job, partition: str, target: Path) -> int:
    """Write what is known of a published partition: each passage as it is sent, and its score.

    A row per passage of a query: of a long document each window is one. Such a file can be imported
    under another state root, for the same ``context``. Return the count.

    Raises:
        JobError: the target is neither .parquet nor .csv, or is there already.
        StateError: nothing is published, or a published file or the library is damaged.

    """
    output, state = open_store(job.output_root), open_store(job.state_root)
    current = read_current(state, partition)
    if current is None:
        raise StateError(f"job {job.name}: partition {partition} is not published: run it first")
    try:
        files = [output.fetch(part.name) for part in current.parts]
    except FileNotFoundError:
        raise StateError(
            f"job {job.name}: a published file of generation {current.number} is gone: rerank-jobs"
            " run puts it back"
        ) from None
    if not files:
        return _write(target, TEXTS, iter(()))
    table = read_files(job, files, files[0].parent, replace=True)
    library = find_scores(state, identify_scorer(job), datetime(1970, 1, 1, tzinfo=UTC)).sql
    tokenizer = read_tokenizer(job)
    counter = make_counter(tokenizer) if tokenizer else ESTIMATE
    with (
        scratch_folder(state.location) as folder,
        contextlib.closing(connect(folder, job.memory)) as con,
    ):
        salt, shards = prepare_state(state), count_shards(table.rows, job.shards.rows_per_shard)
        counts = cluster(con, table, job, salt, shards)
        with ShardWriters(folder, "passages", PASSAGES, shards) as out:
            write_passages(con, table, job, salt, out, counts.document_bytes, counter)
        if library is None:
            return _write(target, TEXTS, iter(()))
        con.execute(f"CREATE TABLE known AS {library}")
        return _write(target, TEXTS, _join(con, out))


def _join(con: duckdb.DuckDBPyConnection, passages: ShardWriters) -> Iterator[pa.Table]:
    columns = ", ".join(f"p.{name}" for name in ("query", "window", "windows"))
    for shard in range(passages.shards):
        for batch in read_batches(passages.path(shard)):
            con.register("batch", pa.Table.from_batches([batch]))
            yield con.sql(f"""SELECT {columns}, p.text AS document, k.score, k.model, k.provider,
                k.received_at AS date, k.parts FROM batch AS p JOIN known AS k
                ON p.query_key = k.query_key AND p.passage_key = k.passage_key
                ORDER BY p.query_key, p.doc_key, p.window""").to_arrow_table()
            con.unregister("batch")


def _show_keys(scores: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {}
    for name in ("query_key", "passage_key"):
        keys: list[Any] = scores.column(name).to_pylist()
        columns[name] = pa.array([key.hex() for key in keys], pa.string())
    for name in ("score", "model", "provider", "parts"):
        columns[name] = scores.column(name)
    return pa.table({**columns, "date": scores.column("received_at")})


def _write(target: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    """Write tables to a new file whose name says how; a file of half the rows never stays."""
    suffix = target.suffix.lower()
    if suffix not in {".parquet", ".csv"}:
        raise JobError(f"--to {target}: the name must end in .parquet or .csv")
    if target.exists():
        raise JobError(f"--to {target}: is there already: name a new file")
    count = 0
    part = target.with_name(f".{target.name}.part")
    try:
        with _open_writer(part, suffix, schema) as writer:
            for table in tables:
                shown = table.select(schema.names).cast(schema)
                writer.write_table(_show_dates(shown) if suffix == ".csv" else shown)
                count += table.num_rows
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return count


def _open_writer(path: Path, suffix: str, schema: pa.Schema) -> Any:
    if suffix == ".csv":
        return pa_csv.CSVWriter(path, _show_dates(schema.empty_table()).schema)
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def _show_dates(table: pa.Table) -> pa.Table:
    """Write instants in ISO 8601, to the microsecond."""
    dates = pc.strftime(table.column("date"), format="%Y-%m-%dT%H:%M:%SZ")
    return table.set_column(table.schema.get_field_index("date"), "date", dates)
