"""Searches of a published log as one row each: where clicked results stood, and where they stand.

A search's results carry two orders: *before* as they were shown, *after* by ``rerank_rank``. Both
number the same results from 1 to n, so results that were rejected or cut leave no gap in either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import InputError

__all__ = ["SearchColumns", "count_clicks", "read_searches", "summarise_searches"]

BATCH_ROWS = 2048
"""Searches that are in memory at once; a search has some ten results, seldom a thousand."""

STATUSES = ("scored", "reused", "single", "failed")

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SearchColumns:
    """Columns of a log, and fields of the structs in its list column ``results``, by role.

    ``clicked`` and ``position`` are fields; roles that no column plays are ``None``.
    """

    results: str
    clicked: str
    position: str | None = None
    search_id: str | None = None
    query_id: str | None = None
    time: str | None = None


def read_searches(path: Path, columns: SearchColumns) -> Iterator[pa.RecordBatch]:
    """Yield the searches of a published part, without texts, in order and a few at a time.

    Raises:
        InputError: ``columns.time`` is no column of the part.
        pyarrow.ArrowException, OSError: the part is damaged or not there.

    """
    fields = [columns.clicked, columns.position, "rerank_rank"]
    fields += ["rerank_first_stage_rank", "rerank_status"]
    names = [columns.search_id, columns.query_id, columns.time]
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if columns.time is not None and columns.time not in file.schema_arrow.names:
            raise InputError(
                f"{path.name}: there is no column {columns.time!r} (enrichment.time of the job"
                " file): name another, or leave it out"
            )
        wanted = [f"{columns.results}.list.element.{name}" for name in fields if name]
        wanted += [name for name in names if name]
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=wanted)


def count_clicks(path: Path, columns: SearchColumns) -> int:
    """Return how many results of a rejected part were clicked."""
    clicks = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        field = f"{columns.results}.list.element.{columns.clicked}"
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[field]):
            lists: Any = batch.column(columns.results)
            clicks += int(_read_clicks(lists.flatten(), columns.clicked).sum())
    return clicks


def summarise_searches(batch: pa.RecordBatch, columns: SearchColumns) -> pa.Table:
    """Return the columns of the contract ``search_summary`` from ``search_id`` on, a row a search.

    ``batch`` holds searches as ``read_searches`` gives them. Results are shown in the order of
    ``columns.position``, missing positions last, equal ones in first-stage order; without the
    column in first-stage order. Where positions start, and gaps in them, make no difference. A
    click is true, or a number above 0. The reciprocal rank of a search is that of the clicked
    result which stands highest in the order at hand.

    Raises:
        InputError: ``columns.time`` is neither a date nor a timestamp.

    """
    lists: Any = batch.column(columns.results)
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    items = lists.flatten()
    search = np.repeat(np.arange(len(sizes)), sizes)
    shown = _sort_as_shown(items, columns.position, search)
    before = np.empty(len(search), np.int64)
    before[shown] = np.arange(len(search)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    after = _read_numbers(items, "rerank_rank").astype(np.int64)
    status = pc.struct_field(items, "rerank_status")

    def count(chosen: npt.NDArray[np.bool_]) -> Numbers:
        return np.bincount(search[chosen], minlength=len(sizes))

    by_status = {name: _equals(status, name) for name in STATUSES}
    clicked = _read_clicks(items, columns.clicked)
    moved = np.bincount(search, weights=np.abs(before - after), minlength=len(sizes))
    changed = count((after == 1) & (before != 1)) > 0
    alone = sizes < 2
    summary = {
        "search_id": _name(batch, columns.search_id),
        "query_id": _name(batch, columns.query_id),
        "searched_at": _read_time(batch, columns.time),
        "results": sizes,
        **{name: count(chosen) for name, chosen in by_status.items()},
        "clicks_failed": count(clicked & by_status["failed"]),
        **_summarise_clicks(search, before, after, shown[clicked[shown]], len(sizes)),
        "mean_abs_movement": pa.array(moved / np.maximum(sizes, 1), mask=alone),
        "top1_changed": pa.array(changed, mask=alone),
    }
    fields = [field for field in arrow_schema("search_summary") if field.name in summary]
    arrays = [_fit(summary[field.name], field.type) for field in fields]
    return pa.table(arrays, schema=pa.schema(fields))


def _summarise_clicks(
    search: Numbers, before: Numbers, after: Numbers, chosen: Numbers, searches: int
) -> dict[str, Any]:
    """Summarise the clicked results ``chosen``, which stand in the order of search and ``before``.

    Searches without a click have empty lists and nulls.
    """
    counts = np.bincount(search[chosen], minlength=searches)
    ends = np.cumsum(counts)
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    with_clicks, none = np.flatnonzero(counts), counts == 0
    firsts = (ends - counts)[with_clicks]

    def spread(values: npt.NDArray[np.float64]) -> pa.Array[Any]:
        spread = np.zeros(searches)
        spread[with_clicks] = values
        return pa.array(spread, mask=none)

    def lowest(ranks: Numbers) -> npt.NDArray[np.float64]:
        return np.minimum.reduceat(ranks, firsts) if len(firsts) else np.empty(0)

    up = np.bincount(search[chosen], weights=(before - after)[chosen], minlength=searches)
    ranks = {"before": before[chosen], "after": after[chosen]}
    return {
        "clicks": counts,
        **{f"click_rr_{name}": spread(1 / lowest(one)) for name, one in ranks.items()},
        **{
            f"clicked_ranks_{name}": pa.ListArray.from_arrays(offsets, pa.array(one))
            for name, one in ranks.items()
        },
        "clicked_movement": spread(up[with_clicks] / counts[with_clicks]),
    }


def _sort_as_shown(items: Any, position: str | None, search: Numbers) -> Numbers:
    """Return the results' indexes in the order of search and position, ties as they came."""
    first_stage = _read_numbers(items, "rerank_first_stage_rank")
    if position is None:
        return np.lexsort((first_stage, search))
    shown = _read_numbers(items, position)
    return np.lexsort((first_stage, np.where(np.isnan(shown), np.inf, shown), search))


def _read_numbers(items: Any, field: str) -> npt.NDArray[np.float64]:
    """Return a numeric or boolean field; null is NaN."""
    values = pc.struct_field(items, field)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    numbers: Any = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, np.float64)


def _read_clicks(items: Any, field: str) -> npt.NDArray[np.bool_]:
    clicks: npt.NDArray[np.bool_] = _read_numbers(items, field) > 0
    return clicks


def _equals(values: Any, text: str) -> npt.NDArray[np.bool_]:
    same: Any = pc.equal(values, pa.scalar(text))
    return np.asarray(same.to_numpy(zero_copy_only=False), np.bool_)


def _name(batch: pa.RecordBatch, column: str | None) -> Any:
    if column is None:
        return pa.nulls(batch.num_rows, pa.string())
    return batch.column(column).cast(pa.string())


def _read_time(batch: pa.RecordBatch, column: str | None) -> Any:
    """Return instants; a date is its midnight, and what names no time zone is UTC."""
    wanted = pa.timestamp("us", tz="UTC")
    if column is None:
        return pa.nulls(batch.num_rows, wanted)
    values = batch.column(column)
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(values.type):
        raise InputError(
            f"column {column!r} (enrichment.time of the job file) is {values.type}, but must be a"
            " date or a timestamp: cast it in the input, or leave it out"
        )
    return values.cast(wanted, safe=False)


def _fit(values: Any, kind: pa.DataType) -> pa.Array[Any]:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array.cast(kind)
