"""Building a plan: one pass from an input table to work files and a promise, in scratch space."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from rerank_jobs.config import Job
from rerank_jobs.errors import InputError, RerankJobsError, StateError
from rerank_jobs.plan.cluster import Counts, cluster
from rerank_jobs.plan.counting import ESTIMATE, TokenCounter
from rerank_jobs.plan.listwise import check_lists, check_windows
from rerank_jobs.plan.packing import MAX_PASSAGES
from rerank_jobs.plan.passages import PASSAGES, write_passages
from rerank_jobs.plan.price import ShardPrice, find_naive
from rerank_jobs.plan.promise import Promise, make_promise
from rerank_jobs.plan.queries import Rules
from rerank_jobs.plan.schedule import SCHEDULE, write_schedule
from rerank_jobs.plan.work import (
    CANDIDATES,
    NO_STATISTICS,
    ShardWriters,
    rows_schema,
    write_candidates,
    write_rejected,
    write_rows,
)
from rerank_jobs.tables.sink import choose_row_group
from rerank_jobs.tables.sources import InputTable

__all__ = ["MAX_SHARDS", "Draft", "build_plan", "connect", "count_shards", "explain_disk"]

MAX_SHARDS = 256

# SQL that does not hold together is a mistake of ours and must not be blamed on the table.
_OUR_MISTAKES = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ParserException,
    duckdb.SyntaxException,
)

_DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)

_LIBRARY_FILE = re.compile(r"/library/[0-9a-f]{32}/scores-[0-9a-f]+\.parquet")

KINDS = ("rows", "candidates", "passages", "schedule")


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan that nothing depends on yet: its promise, prices and work files in ``folder``."""

    folder: Path
    promise: Promise
    prices: tuple[ShardPrice, ...]
    rejected_rows: int
    row_group: int

    def work_file(self, kind: str, shard: int) -> Path:
        """Return a work file of a shard."""
        return self.folder / f"{shard:05d}.{kind}.arrow"

    @property
    def rejected_file(self) -> Path:
        """Return the rejected table (exists only if ``rejected_rows``)."""
        return self.folder / "rejected.parquet"


def count_shards(rows: int, rows_per_shard: int) -> int:
    """Return how many shards a table of ``rows`` is cut into: from rows alone, 1 to 256."""
    return min(MAX_SHARDS, max(1, -(-rows // rows_per_shard)))


def connect(folder: Path, memory: int) -> duckdb.DuckDBPyConnection:
    """Open a scratch database in ``folder`` that spills there beyond its share of ``memory``."""
    con = duckdb.connect(folder / "scratch.duckdb")
    con.execute(f"SET memory_limit = '{max(128, memory * 40 // 100 // 1_000_000)}MB'")
    con.execute(f"SET temp_directory = '{str(folder / 'spill').replace(chr(39), chr(39) * 2)}'")
    con.execute("SET preserve_insertion_order = false")
    con.execute("SET TimeZone = 'UTC'")
    con.execute(f"SET disabled_optimizers = '{NO_STATISTICS}'")
    return con


@contextlib.contextmanager
def explain_disk(folder: Path) -> Iterator[None]:
    """Turn what the database says of a disk that is full or broken into an ``OSError``.

    Without it a full disk would look like a damaged table, or like a mistake of ours.
    """
    try:
        yield
    except duckdb.Error as error:
        text = str(error)
        for number in _DISK_ERRORS:
            if os.strerror(number) in text:
                raise OSError(number, os.strerror(number), str(folder.parent)) from None
        raise


def build_plan(
    job: Job,
    table: InputTable,
    *,
    salt: bytes,
    library: str | None,
    folder: Path,
    limit_queries: int | None = None,
    max_passages: int = MAX_PASSAGES,
    listwise: bool = False,
    counter: TokenCounter = ESTIMATE,
) -> Draft:
    """Build work files and the promise of a table; nothing outside ``folder`` is written.

    ``library`` is a DuckDB query of earlier scores (see ``write_schedule``). ``max_passages`` is
    what the endpoint takes in a request; ``listwise`` says that its scores depend on the request.

    Raises:
        InputError: the table cannot be read, or holds bad rows under ``on_bad_rows: fail``.
        JobError: a listwise model, and lists that cannot be sent as they are.
        StateError: a file of the library went away while it was read.

    """
    rules = _find_rules(job, max_passages, listwise=listwise)
    with (
        _explain(table),
        explain_disk(folder),
        contextlib.closing(connect(folder, job.memory)) as con,
    ):
        shards = count_shards(table.rows, job.shards.rows_per_shard)
        counts = cluster(con, table, job, salt, shards)
        _check_rows(con, table, job)
        if limit_queries is not None:
            counts = _keep_sample(con, counts, limit_queries)
        if listwise:
            check_lists(con, job)
        row_bytes = _estimate_row(table, counts)
        writers = _open_writers(table, folder, shards)
        with writers["rows"] as out:
            write_rows(con, job, out, row_bytes)
        with writers["candidates"] as out:
            write_candidates(con, out)
        with writers["passages"] as out:
            pairs = write_passages(con, table, job, salt, out, counts.document_bytes, counter)
        if listwise:
            check_windows(con, job)
        with writers["schedule"] as out:
            prices = write_schedule(con, library, job.reuse.mode, out, rules)
        naive = find_naive(con)
        rejected = write_rejected(con, table, job, folder / "rejected.parquet", row_bytes)
    promise = make_promise(job, counts, pairs, prices, naive)
    return Draft(folder, promise, tuple(prices), rejected, choose_row_group(row_bytes))


def _find_rules(job: Job, max_passages: int, *, listwise: bool) -> Rules:
    return Rules(
        max_passages=max_passages,
        context_tokens=job.context.tokens if job.context.scope == "request" else None,
        whole_queries=listwise,
        per_token=job.endpoint.token_price_usd > 0,
    )


def _open_writers(table: InputTable, folder: Path, shards: int) -> dict[str, ShardWriters]:
    schemas = (rows_schema(table), CANDIDATES, PASSAGES, SCHEDULE)
    writers = {
        kind: ShardWriters(folder, kind, schema, shards)
        for kind, schema in zip(KINDS, schemas, strict=True)
    }
    writers["rows"].compression = None  # rows are taken from it by position
    return writers


def _estimate_row(table: InputTable, counts: Counts) -> int:
    """Return the mean decoded size of a row: footers alone hide texts that repeat."""
    candidates = max(1, counts.candidates_in // max(1, counts.rows_in))
    return max(table.row_bytes, counts.document_bytes * candidates)


@contextlib.contextmanager
def _explain(table: InputTable) -> Iterator[None]:
    """Turn the database's errors into ours, without their text, which may quote the data."""
    try:
        yield
    except (RerankJobsError, *_OUR_MISTAKES):
        raise
    except duckdb.Error as error:
        text = str(error)
        if _LIBRARY_FILE.search(text):
            raise StateError(
                "a file of the score library was removed or damaged while it was read: run again"
            ) from None
        named = [file.name for file in table.files if file.path in text]
        where = f"{table.location}/{named[0]}" if named else table.location
        if re.search(r"(?i)utf-?8", text):
            what = "a text column holds bytes that are not UTF-8: write it again from clean text"
        elif isinstance(error, duckdb.OutOfMemoryException):
            what = "planning needs more memory than the job allows: raise memory: in the job file"
        else:
            what = (
                f"cannot be read ({type(error).__name__}): the file may be damaged, write it again"
            )
        raise InputError(f"{where}: {what}") from None
    except pa.ArrowException as error:
        raise InputError(f"{table.location}: cannot be read ({type(error).__name__})") from None


def _check_rows(con: duckdb.DuckDBPyConnection, table: InputTable, job: Job) -> None:
    if job.input.on_bad_rows == "reject":
        return
    first = con.execute(
        "SELECT row, reason, count(*) OVER () FROM rejected ORDER BY row, ref LIMIT 1"
    ).fetchone()
    if first is None:
        return
    name, row = table.locate(int(first[0]))
    raise InputError(
        f"{table.location}: {first[2]:,} bad rows, the first ({first[1]}) in {name} row {row}:"
        " mend them, or set input.on_bad_rows: reject to put them aside"
    )


def _keep_sample(con: duckdb.DuckDBPyConnection, counts: Counts, queries: int) -> Counts:
    """Cut the table to ``queries`` distinct queries, drawn fairly by key, the same each time."""
    con.execute(f"""CREATE TABLE sample AS SELECT DISTINCT query_key FROM ranked
        ORDER BY sha256(query_key) LIMIT {queries}""")
    for name in ("ranked", "row_keys"):
        con.execute(f"DELETE FROM {name} WHERE query_key NOT IN (SELECT query_key FROM sample)")
    con.execute("DELETE FROM rejected")
    row = con.execute("""SELECT (SELECT count(*) FROM row_keys), count(*), count(DISTINCT grp),
        count(DISTINCT query_key) FROM ranked""").fetchone()
    rows, kept, groups, chosen = (int(value) for value in row or (0, 0, 0, 0))
    return Counts(
        rows_in=rows,
        rows_out=rows,
        rows_rejected=0,
        candidates_in=kept,
        candidates_out=kept,
        candidates_rejected=0,
        cut=0,
        groups=groups,
        queries=chosen,
        document_bytes=counts.document_bytes,
        reasons={},
    )
