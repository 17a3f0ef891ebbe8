"""Parts: a scored shard merged, written under state, read back and declared done.

``done.json`` holds no clock, attempt or cost: for one plan it has the same bytes whatever happened
on the way. What the way cost stands in ``run-<epoch>.json`` and in the segments.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rerank_jobs.config import Job
from rerank_jobs.errors import PlanSpoiled, StateError
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.plan.build import connect, explain_disk
from rerank_jobs.plan.frozen import Plan, ShardPlan, WorkFile, plan_name, run_folder
from rerank_jobs.plan.schedule import SCHEDULE
from rerank_jobs.plan.work import read_batches
from rerank_jobs.publish.generations import Part
from rerank_jobs.publish.merge import Merged, count_statuses, merge_shard, output_schema
from rerank_jobs.publish.publisher import ShardPart
from rerank_jobs.publish.ranking import count_ranking
from rerank_jobs.storage import Put, Store, read_json, scratch_folder, seal_json, sha256_of_file
from rerank_jobs.tables.mapped import MappedRows
from rerank_jobs.tables.sink import write_parquet

__all__ = ["drop_spoiled", "finish_shard", "iterate_work", "open_work", "read_done"]


def open_work(store: Store, file: WorkFile) -> Path:
    """Return a work file as a local path, checked against the digest that the plan froze.

    Raises:
        PlanSpoiled: it is gone or damaged.

    """
    problem = "is gone"
    with contextlib.suppress(FileNotFoundError):
        path = store.fetch(file.name)
        facts = path.stat()
        if facts.st_size == file.size and _digest(path, facts.st_mtime_ns) == file.sha256:
            return path
        problem = "is damaged"
    raise PlanSpoiled(
        f"{store.location}/{file.name}: a planned file {problem}: run again (Airflow: clear the"
        " task plan), then it is planned anew and all that is paid is used"
    )


@contextlib.contextmanager
def drop_spoiled(store: Store, plan: Plan) -> Iterator[None]:
    """Remove a plan whose files turn out to be gone or damaged, so that planning makes it again."""
    try:
        yield
    except PlanSpoiled:
        store.delete(plan_name(plan.partition, plan.plan_id))
        raise


@functools.lru_cache(maxsize=16)
def _digest(path: Path, _changed_ns: int) -> str:
    """Return the SHA-256 of a file, computed once per process: one shard opens it several times."""
    return sha256_of_file(path)


def iterate_work(store: Store, file: WorkFile) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a work file without holding the file in memory."""
    yield from read_batches(open_work(store, file))


def read_done(store: Store, folder: str) -> ShardPart | None:
    """Return a shard's valid ``done.json`` whose part is there and whole, else ``None``."""
    try:
        document = read_json(store, f"{folder}/done.json")
    except (FileNotFoundError, StateError):
        return None
    part = Part(**document["part"]) if document["part"] else None
    if part is not None and not _is_whole(store, part):
        return None
    return ShardPart(
        int(document["shard"]), part, dict(document["statuses"]), document.get("ranking")
    )


def _is_whole(store: Store, part: Part) -> bool:
    try:
        path = store.fetch(part.name)
    except FileNotFoundError:
        return False
    return path.stat().st_size == part.size and sha256_of_file(path) == part.sha256


def finish_shard(
    job: Job, plan: Plan, shard: ShardPlan, *, store: Store, check: Callable[[], None]
) -> ShardPart:
    """Merge a fully scored shard, write and read back its part, and create ``done.json``.

    ``check`` raises if the shard was lost to another owner; it runs before anything is created.

    Raises:
        StateError: a planned pair has no score, or what was written does not read back.

    """
    folder = run_folder(plan.partition, plan.plan_id, shard.number)
    with scratch_folder(store.location) as scratch:
        path = scratch / "part.parquet"
        rows, merged, ranking = _write_part(job, plan, shard, store, scratch, path)
        check()
        try:
            part = _put_part(store, folder, path, rows) if rows else None
        except FileNotFoundError:
            check()  # whoever took the shard over has published it and cleared it away
            raise StateError(
                f"{store.location}/{folder}: a part vanished as it was written: run again"
            ) from None
    document: dict[str, Any] = {
        "shard": shard.number,
        "plan_id": plan.plan_id,
        "part": _describe(part) if part else None,
        "statuses": asdict(merged),
        "ranking": ranking,
    }
    _drop_damaged_record(store, f"{folder}/done.json")
    if store.put_if_absent(f"{folder}/done.json", seal_json(document)) is Put.OTHER:
        raise StateError(
            f"{store.location}/{folder}/done.json: another process finished it differently"
        )
    return ShardPart(shard.number, part, asdict(merged), ranking)


def _describe(part: Part) -> dict[str, Any]:
    return {"name": part.name, "sha256": part.sha256, "size": part.size, "rows": part.rows}


def _drop_damaged_record(store: Store, name: str) -> None:
    try:
        read_json(store, name)
    except FileNotFoundError:
        return
    except StateError:
        store.delete(name)


def _write_part(
    job: Job, plan: Plan, shard: ShardPlan, store: Store, scratch: Path, path: Path
) -> tuple[int, Merged, dict[str, int]]:
    folder = run_folder(plan.partition, plan.plan_id, shard.number)
    schema = output_schema(plan.input_schema, job)
    work: dict[str, object] = {
        "candidates": ds.dataset(open_work(store, shard.files["candidates"]), format="ipc"),
        "passages": _read_passages(store, shard),
        "ledger": load_segments(store, folder, plan.plan_id).pairs,
    }
    with (
        explain_disk(scratch),
        contextlib.closing(connect(scratch, job.memory)) as con,
        pa.memory_map(str(open_work(store, shard.files["rows"]))) as source,
    ):
        # A third of a row group at a time: several blocks of it are alive at once.
        merged = merge_shard(
            con, job, schema, work, MappedRows(source), block=max(1, plan.row_group // 3)
        )
        rows = write_parquet(path, schema, merged, row_group=plan.row_group)
        return rows, count_statuses(con), count_ranking(con, "ranked")


def _read_passages(store: Store, shard: ShardPlan) -> pa.Table:
    """Passages without their texts, beside their schedule."""
    names = ["query_key", "doc_key", "window", "windows", "truncated", "passage_key", "error"]
    batches = [batch.select(names) for batch in iterate_work(store, shard.files["passages"])]
    schedule = list(iterate_work(store, shard.files["schedule"]))
    if not batches:
        empty = ds.dataset(open_work(store, shard.files["passages"]), format="ipc").schema
        passages = pa.schema([empty.field(name) for name in names]).empty_table()
    else:
        passages = pa.Table.from_batches(batches)
    for name in ("score", "model", "provider", "parts"):
        kind = SCHEDULE.field(name).type
        known = all(name in batch.schema.names for batch in schedule)  # not in earlier versions
        column = (
            [batch.column(name) for batch in schedule]
            if known
            else [pa.nulls(passages.num_rows, kind)]
        )
        passages = passages.append_column(name, pa.chunked_array(column, kind))
    return passages


def _put_part(store: Store, folder: str, path: Path, rows: int) -> Part:
    digest = sha256_of_file(path)
    name = f"{folder}/part-{digest[:8]}.parquet"
    if store.put_file_if_absent(name, path) is Put.OTHER:
        store.delete(name)  # its name is its digest: what stands there was damaged
        store.put_file_if_absent(name, path)
    written = store.fetch(name)
    with pq.ParquetFile(written, page_checksum_verification=True) as file:
        read = sum(batch.num_rows for batch in file.iter_batches(columns=[]))
    if sha256_of_file(written) != digest or read != rows:
        raise StateError(f"{store.location}/{name}: the part does not read back as written")
    return Part(name, digest, written.stat().st_size, rows)
