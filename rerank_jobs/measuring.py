"""What a published generation did to the rankings: its movement, and its quality by judgements.

Ids, ranks and outcomes are read, never a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.config import Job
from rerank_jobs.errors import InputError
from rerank_jobs.publish.generations import Generation
from rerank_jobs.publish.orders import Roots
from rerank_jobs.report.movement import Movement, measure_movement
from rerank_jobs.report.rankings import RankingColumns, read_lists, read_long

if TYPE_CHECKING:
    from rerank_jobs.report.evaluation import Evaluation

__all__ = ["Measured", "measure_generation", "read_rankings"]

_BATCH_ROWS = 8192
_NAMES = ("rerank_first_stage_rank", "rerank_rank", "rerank_status")


@dataclass(frozen=True, slots=True)
class Measured:
    """A generation's movement, and its quality where judgements were given."""

    movement: Movement
    evaluation: Evaluation | None


def measure_generation(
    job: Job, roots: Roots, generation: Generation, qrels: Path | None = None
) -> Measured:
    """Measure a generation whose files stand in the output.

    Without ``qrels`` its rows pass through in batches; with them its ids and ranks are held in
    memory, about 60 bytes a document.

    Raises:
        InputError: the judgements are not readable or do not join, or the job names no query id.
        OSError: a file is gone: a newer generation replaced it.

    """
    reader = pa.RecordBatchReader.from_batches(*_open_positions(job, roots, generation))
    movement = measure_movement(reader, group="grp")
    if qrels is None:
        return Measured(movement, None)
    from rerank_jobs.report.evaluation import evaluate
    from rerank_jobs.report.qrels import read_qrels

    rankings = read_rankings(job, roots, generation, None)
    return Measured(movement, evaluate(rankings, read_qrels(qrels)))


def read_rankings(job: Job, roots: Roots, generation: Generation, by: str | None) -> pa.Table:
    """Return the published rankings in long form, whatever the layout.

    Raises:
        InputError: the layout has no column that names a query.

    """
    columns = job.input.columns
    if columns.query_id is None:
        raise InputError(
            f"job {job.name}: evaluate needs input.columns.query_id, which judgements name"
        )
    names = RankingColumns(columns.query_id, columns.document_id, slice_by=by)
    paths = _fetch(roots, generation)
    if columns.candidates is None:
        return read_long(paths, names)
    return read_lists(paths, names, candidates=columns.candidates)


def _fetch(roots: Roots, generation: Generation) -> list[Path]:
    return [Path(roots.output.fetch(part.name)) for part in generation.parts]


def _open_positions(
    job: Job, roots: Roots, generation: Generation
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return ``grp``, which tells groups apart, and our columns of both orders, batch by batch."""
    columns, paths = job.input.columns, _fetch(roots, generation)
    ranks: list[pa.Field[Any]] = [pa.field(name, pa.int64()) for name in _NAMES[:2]]
    own = [*ranks, pa.field(_NAMES[2], pa.string())]
    if columns.candidates is not None:
        schema = pa.schema([pa.field("grp", pa.int64()), *own])
        return schema, _read_lists(paths, columns.candidates, schema)
    schema = pa.schema([pa.field("grp", pa.string()), *own])
    return schema, _read_long(paths, columns.query_id or "", schema)


def _read_long(paths: Sequence[Path], group: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=[group, *_NAMES]):
                yield _cast([batch.column(name) for name in (group, *_NAMES)], schema)


def _read_lists(paths: Sequence[Path], lists: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    leaves = [f"{lists}.list.element.{name}" for name in _NAMES]  # texts beside them stay on disk
    first = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=leaves):
                column = batch.column(lists)
                items = pc.list_flatten(column)
                group = pc.add(pc.list_parent_indices(column).cast(pa.int64()), first)
                yield _cast([group, *(pc.struct_field(items, name) for name in _NAMES)], schema)
                first += batch.num_rows


def _cast(arrays: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    cast = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=schema)
