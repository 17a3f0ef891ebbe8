"""Enrichment of a search log: what is published becomes a table of searches and a row for the day.

The summaries of a generation are a function of its files and its manifest alone, so that making
them again gives the same bytes. They stand beside the output, hold no text, and are superseded by
those of the next generation once these are there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rerank_jobs.config import ALL, Job, check_partition_key
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import JobError, StateError
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.planning import open_roots
from rerank_jobs.publish.generations import Generation, Part, read_current
from rerank_jobs.publish.leftovers import UNSETTLED_SECONDS, publish_folder
from rerank_jobs.publish.orders import Roots
from rerank_jobs.report.days import DayTotals, add_up_searches, make_day_table, summarise_day
from rerank_jobs.report.searches import (
    SearchColumns,
    count_clicks,
    read_searches,
    summarise_searches,
)
from rerank_jobs.storage import Put, Store, open_store, scratch_folder, sha256_of_file
from rerank_jobs.tables.sink import choose_row_group, write_parquet
from rerank_jobs.tables.sources import quote, quote_text
from rerank_jobs.upkeep import check_state, prepare_state

__all__ = ["Enriched", "drop_summaries", "enrich_partition"]

MOST_TRIES = 10

SEARCH_BYTES = 200
"""A row of the table of searches in memory, about."""

SEARCHES, DAYS = "searches", "days"
"""Folders below the summaries' root: each is a table, with a folder a partition."""


@dataclass(frozen=True, slots=True)
class Enriched:
    """The summaries of a partition's current generation.

    ``day`` is the row of the contract ``day_summary``; ``searches_path`` and ``day_path`` are the
    files' locations; ``changed`` says whether they were not there before.
    """

    partition: str
    generation: int
    day: dict[str, Any]
    searches_path: str
    day_path: str
    changed: bool


def enrich_partition(
    job: Job, partition: str = ALL, *, owner: dict[str, Any] | None = None
) -> Enriched:
    """Summarise the current generation of a search log's partition, by search and as one row.

    Reads what is published and sends nothing. Where the generation's summaries stand already,
    nothing changes. A few thousand searches are in memory at once.

    Raises:
        JobError: the job's layout is not ``search_log``, or it names no column of clicks.
        InputError: ``enrichment.time`` names no column of dates or timestamps.
        StateError: nothing is published, or a published file is gone or damaged.
        Busy, Fenced: another owner publishes the partition.

    """
    check_partition_key(partition)
    columns = _find_columns(job)
    roots, store = open_roots(job), open_store(job.summaries_root)
    if check_state(roots.state) is not None:
        prepare_state(roots.state)
    for _ in range(MOST_TRIES):
        current = read_current(roots.state, partition)
        if current is None:
            shown = "" if partition == ALL else f" for partition {partition}"
            raise StateError(
                f"job {job.name}: nothing is published{shown} yet: rerank-jobs run does it"
            )
        with scratch_folder(roots.state.location) as folder:
            try:
                day = _write_summaries(job, roots, current, columns, folder)
            except FileNotFoundError:
                if _is_current(roots, partition, current):
                    raise _explain_damage(roots.output.location) from None
                continue
            with acquire(
                roots.state, publish_folder(partition), owner or make_process_owner()
            ) as claim:
                if not _is_current(roots, partition, current):
                    continue  # made in vain: another generation was published meanwhile
                claim.check()
                names, changed = _place(store, job.partition_folder(partition), current, folder)
        searches, days = (f"{store.location}/{name}" for name in names)
        return Enriched(partition, current.number, day, searches, days, changed)
    raise StateError(
        f"job {job.name}: {MOST_TRIES} generations were published while one was summarised: try"
        " again"
    )


def drop_summaries(job: Job, partition: str) -> None:
    """Remove a partition's summaries, which hold ids; ``enrich_partition`` makes them again.

    Only for the one process that holds the claim of the partition's publishing.
    """
    store = open_store(job.summaries_root)
    for kind in (SEARCHES, DAYS):
        folder = f"{kind}/{job.partition_folder(partition)}".rstrip("/")
        for entry in store.entries(folder):
            if entry.name.rpartition("/")[0] == folder:
                store.delete(entry.name)


def _find_columns(job: Job) -> SearchColumns:
    columns = job.input.columns
    if job.input.layout != "search_log" or columns.candidates is None:
        raise JobError(
            f"job {job.name}: input.layout is {job.input.layout}: only a search_log has searches"
            " to summarise"
        )
    if columns.clicked is None:
        raise JobError(
            f"job {job.name}: name the field that says whether a result was clicked"
            " (input.columns.clicked): summaries are about clicks"
        )
    return SearchColumns(
        results=columns.candidates,
        clicked=columns.clicked,
        position=columns.position,
        search_id=columns.search_id,
        query_id=columns.query_id,
        time=job.enrichment.time,
    )


def _is_current(roots: Roots, partition: str, generation: Generation) -> bool:
    current = read_current(roots.state, partition)
    return current is not None and current.number == generation.number


def _write_summaries(
    job: Job, roots: Roots, generation: Generation, columns: SearchColumns, folder: Path
) -> dict[str, Any]:
    """Write both summaries into ``folder``; return the day's row.

    Raises:
        FileNotFoundError: a published file is gone.
        StateError: one is damaged.

    """
    totals: list[DayTotals] = []

    def watch(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            totals.append(add_up_searches(table))
            yield table

    try:
        searches = watch(_summarise_parts(roots.output, generation, columns))
        _write(folder / SEARCHES, "search_summary", searches)
        rejected = [_fetch(roots.rejected, part) for part in generation.rejected]
        day = summarise_day(
            functools.reduce(DayTotals.plus, totals, DayTotals()),
            generation.document,
            queries=_count_queries(job, roots, generation, folder),
            clicks_rejected=sum(count_clicks(path, columns) for path in rejected),
        )
    except (pa.ArrowException, duckdb.IOException, duckdb.InvalidInputException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _explain_damage(roots.output.location) from None  # a wrong checksum is an OSError too
    _write(folder / DAYS, "day_summary", [make_day_table(day)])
    return day


def _write(path: Path, contract: str, tables: Iterable[pa.Table]) -> None:
    write_parquet(path, arrow_schema(contract), tables, row_group=choose_row_group(SEARCH_BYTES))


def _summarise_parts(
    output: Store, generation: Generation, columns: SearchColumns
) -> Iterator[pa.Table]:
    schema = arrow_schema("search_summary")
    for part in generation.parts:
        row = 0
        for batch in read_searches(_fetch(output, part), columns):
            summary = summarise_searches(batch, columns)
            ours = {
                "partition": [generation.document["partition"]] * batch.num_rows,
                "generation": [generation.number] * batch.num_rows,
                "part": [part.name.rpartition("/")[2]] * batch.num_rows,
                "row": range(row, row + batch.num_rows),
            }
            arrays = [
                pa.array(ours[field.name], field.type)
                if field.name in ours
                else summary.column(field.name)
                for field in schema
            ]
            yield pa.table(arrays, schema=schema)
            row += batch.num_rows


def _fetch(store: Store, part: Part) -> Path:
    path = store.fetch(part.name)
    if path.stat().st_size != part.size:
        raise _explain_damage(f"{store.location}/{part.name}")
    return path


def _count_queries(job: Job, roots: Roots, generation: Generation, folder: Path) -> int:
    """Count distinct query texts by digests, spilling to ``folder`` what memory cannot hold."""
    paths = [quote_text(str(_fetch(roots.output, part))) for part in generation.parts]
    if not paths:
        return 0
    with duckdb.connect() as con:
        con.execute(f"SET memory_limit = '{max(128, job.memory * 40 // 100 // 1_000_000)}MB'")
        con.execute(f"SET temp_directory = {quote_text(str(folder / 'spill'))}")
        found = con.execute(f"""SELECT count(*) FROM (
            SELECT DISTINCT md5_number({quote(job.input.columns.query)})
            FROM read_parquet([{", ".join(paths)}], hive_partitioning=false))""").fetchone()
    return int(found[0]) if found else 0


def _explain_damage(where: str) -> StateError:
    return StateError(f"{where}: a published file is gone or damaged: rerank-jobs publish mends it")


def _place(
    store: Store, partition_folder: str, generation: Generation, drafts: Path
) -> tuple[list[str], bool]:
    """Create both files, then remove those that they supersede; return their names.

    Only for the one process that holds the partition's claim. The second value says whether
    anything was created.
    """
    names, changed = [], False
    for kind in (SEARCHES, DAYS):
        draft, folder = drafts / kind, f"{kind}/{partition_folder}".rstrip("/")
        digest = sha256_of_file(draft)
        name = f"{folder}/part-{generation.number:05d}-{digest[:8]}.parquet"
        put = store.put_file_if_absent(name, draft)
        if put is Put.OTHER:  # somebody damaged it
            store.delete(name)
            put = store.put_file_if_absent(name, draft)
        changed |= put is Put.CREATED
        names.append(name)
    for name in names:
        folder = name.rpartition("/")[0]
        for entry in store.entries(folder):
            superseded = entry.name.rpartition("/")[0] == folder and entry.name.endswith(".parquet")
            if superseded and entry.name != name:
                store.delete(entry.name)
    for name in store.leftovers(UNSETTLED_SECONDS):
        store.delete(name)
    return names, changed
