"""The score library at size: 100 million pairs, a million looked up, beside one scan of its keys.

The pairs are written sorted, as compaction leaves them, in four files whose keys lie in each other.
The look-up is planning's own: half of what is asked for is there, spread over all of the library.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.ledger.compaction import put_scores
from rerank_jobs.ledger.library import LibraryFile, fetch_library, find_scores, put_library
from rerank_jobs.ledger.library import read_library as read_newest
from rerank_jobs.ledger.sorted_scores import write_scores
from rerank_jobs.plan.build import connect
from rerank_jobs.plan.queries import Rules
from rerank_jobs.plan.schedule import SCHEDULE, write_schedule
from rerank_jobs.plan.work import ShardWriters
from rerank_jobs.storage import LocalStore, scratch_folder

SCORER = "b" * 32
PAIRS = 100_000_000
LOOKED_UP = 1_000_000
MEMORY = 10**9
"""The job's ``memory``."""

SHARES = (0.60, 0.25, 0.10, 0.05)
"""How the pairs lie in files: each is larger than all smaller ones together."""

PER_QUERY = 50
BLOCK = 20_000
"""Queries that are made at once."""


def main() -> int:
    """Run the benchmark, or one part of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--folder", type=Path, help="where the library is written, and removed")
    parser.add_argument("--part", choices=("scan", "look-up"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part = {"scan": scan, "look-up": look_up}[arguments.part]
        part(arguments.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{peak:.0f}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="rerank-jobs-bench-", dir=arguments.folder))
    try:
        measure(folder, arguments.pairs)
    finally:
        shutil.rmtree(folder)
    return 0


def measure(folder: Path, pairs: int) -> None:
    """Write the library, look up, scan, and print the figures."""
    started = time.perf_counter()
    files = write_library(folder, pairs)
    size = sum(file.size for file in files)
    print(
        f"{pairs:,} pairs in {len(files)} files, {size / 1e9:.2f} GB, written in"
        f" {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    best: dict[str, float] = {}
    for part in ("scan", "look-up") * 2:  # the first round warms the page cache
        seconds, peak, told = run_part(folder, part)
        best[part] = min(best.get(part, seconds), seconds)
        print(f"  {part:<8} {seconds:7.1f} s, peak memory {peak:,} MB   {told}", flush=True)
    print(f"  a look-up of {LOOKED_UP:,} takes {best['look-up'] / best['scan']:.1f} x a scan")


def run_part(folder: Path, part: str) -> tuple[float, int, str]:
    """Run a part in a process of its own; return its seconds, peak memory (MB) and words."""
    command = [sys.executable, "-m", "benchmarks.library", "--folder", str(folder), "--part", part]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, told, peak = done.stdout.splitlines()
    return float(seconds), int(peak), told


def write_library(folder: Path, pairs: int) -> list[LibraryFile]:
    """Write library and the keys to look up; return the library's files."""
    store = LocalStore(str(folder))
    kept: list[pa.Table] = []
    files = []
    every = max(1, pairs // (LOOKED_UP // 2))
    for number, share in enumerate(SHARES):
        draw = np.random.default_rng(number)
        path = folder / "scores.parquet"
        blocks = make_blocks(draw, int(pairs * share) // PER_QUERY)
        write_scores(path, keep_some(blocks, every, kept))
        files.append(put_scores(store, SCORER, path))
        path.unlink()
    put_library(store, SCORER, read_newest(store, SCORER), files)
    draw = np.random.default_rng(99)
    half = LOOKED_UP // 2 // PER_QUERY
    absent = [table.select(["query_key", "passage_key"]) for table in make_blocks(draw, half)]
    sends = pa.concat_tables([*kept, *absent])
    pq.write_table(
        sends.sort_by([("query_key", "ascending"), ("passage_key", "ascending")]),
        folder / "sends.parquet",
    )
    return files


def keep_some(blocks: Iterator[pa.Table], every: int, kept: list[pa.Table]) -> Iterator[pa.Table]:
    """Pass tables through and keep the keys of each ``every``-th row."""
    for table in blocks:
        kept.append(
            table.select(["query_key", "passage_key"]).take(np.arange(0, table.num_rows, every))
        )
        yield table


def make_blocks(draw: np.random.Generator, queries: int) -> Iterator[pa.Table]:
    """Yield sorted scores of so many queries, spread over all keys."""
    step = 2**64 // max(1, queries)
    now = datetime.now(UTC)
    for start in range(0, queries, BLOCK):
        count = min(BLOCK, queries - start)
        rows = count * PER_QUERY
        heads = (np.arange(start, start + count, dtype=np.uint64)) * np.uint64(step)
        heads += draw.integers(0, step, count, dtype=np.uint64)
        query = join_words(heads, draw.integers(0, 2**63, count, dtype=np.uint64))
        passages = np.sort(draw.integers(0, 2**63, (count, PER_QUERY), dtype=np.uint64) * 2, axis=1)
        passage = join_words(passages.ravel(), draw.integers(0, 2**63, rows, dtype=np.uint64))
        days = draw.integers(0, 80, count).repeat(PER_QUERY)
        instants = np.datetime64(now.replace(tzinfo=None), "us") - days.astype("timedelta64[D]")
        yield pa.table(
            [
                to_binary(query.repeat(PER_QUERY, axis=0)),
                to_binary(passage),
                pa.array(draw.random(rows)),
                pa.array(["cohere/rerank-v3.5"]).take(np.zeros(rows, dtype=np.int64)),
                pa.array(["Cohere"]).take(np.zeros(rows, dtype=np.int64)),
                pa.array(instants, pa.timestamp("us", tz="UTC")),
                pa.nulls(rows, pa.int32()),
            ],
            schema=arrow_schema("library"),
        )


def join_words(high: Any, low: Any) -> Any:
    """Return keys of two words each, as big-endian bytes."""
    return np.stack([high.astype(">u8"), low.astype(">u8")], axis=1)


def to_binary(words: Any) -> pa.Array[Any]:
    """Return keys as an Arrow array."""
    data = pa.py_buffer(np.ascontiguousarray(words).tobytes())
    return pa.Array.from_buffers(pa.binary(16), len(words), [None, data])


def scan(folder: Path) -> None:
    """Read both key columns of every file once."""
    store = LocalStore(str(folder))
    paths = [str(folder / file.name) for file in read_newest(store, SCORER).files]
    with scratch_folder(str(folder)) as scratch, connect(scratch, MEMORY) as con:
        started = time.perf_counter()
        row = con.execute(
            "SELECT count(*), bit_xor(hash(query_key)), bit_xor(hash(passage_key))"
            f" FROM read_parquet({paths})"
        ).fetchone()
        print(time.perf_counter() - started)
    print(f"{row[0] if row else 0:,} pairs")


def look_up(folder: Path) -> None:
    """Look up as planning does: check the files, join, decide per query, write the schedule."""
    store = LocalStore(str(folder))
    with scratch_folder(str(folder)) as scratch, connect(scratch, MEMORY) as con:
        con.execute(f"""CREATE TABLE sends AS SELECT row_number() OVER () AS ord, 0 AS shard,
            query_key, query_key AS doc_key, passage_key, 1 AS chunks, 80 AS tokens,
            8 AS query_tokens, NULL::VARCHAR AS error, true AS sent
            FROM read_parquet('{folder / "sends.parquet"}')""")
        started = time.perf_counter()
        fetch_library(store, read_newest(store, SCORER))
        checked = time.perf_counter() - started
        library = find_scores(store, SCORER, datetime.now(UTC) - timedelta(days=90)).sql
        with ShardWriters(scratch, "schedule", SCHEDULE, 1) as out:
            (price,) = write_schedule(con, library, "strict", out, Rules())
        print(time.perf_counter() - started)
    print(
        f"{price.reused:,} of {price.passages:,} found; {checked:.1f} s of it to check the files'"
        " SHA-256"
    )


if __name__ == "__main__":
    sys.exit(main())
