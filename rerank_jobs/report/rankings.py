"""Rankings before and after, as ids and ranks only, from scored Parquet parts of every layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from pyarrow.fs import FileSystem

__all__ = ["RANKINGS_SCHEMA", "RankingColumns", "rankings_from_table", "read_lists", "read_long"]

_FIELDS: list[pa.Field[Any]] = [
    pa.field("group", pa.string()),
    pa.field("query_id", pa.string()),
    pa.field("document_id", pa.string()),
    pa.field("before_rank", pa.int64()),
    pa.field("after_rank", pa.int64()),
    pa.field("status", pa.string()),
    pa.field("slice", pa.string()),
]
RANKINGS_SCHEMA = pa.schema(_FIELDS)
"""``group`` is what is ranked: a query, or one search of a log. ``slice`` (nullable) is what
results are broken down by, such as a language; ``status`` (nullable) is the document's outcome."""

_OPTIONAL = ("status", "slice")


@dataclass(frozen=True, slots=True)
class RankingColumns:
    """Names of the columns that hold a ranking; ``None`` where a table has no such column.

    In a list layout ``query_id`` and ``slice_by`` name columns of the row, the others fields of its
    candidates. ``group`` defaults to ``query_id`` in the long layout; in a list layout each row is
    a group of its own, whatever ``group`` says.
    """

    query_id: str
    document_id: str
    before_rank: str = "rerank_first_stage_rank"
    after_rank: str = "rerank_rank"
    status: str | None = "rerank_status"
    group: str | None = None
    slice_by: str | None = None


def read_long(
    paths: Sequence[str | Path],
    columns: RankingColumns,
    *,
    filesystem: FileSystem | None = None,
) -> pa.Table:
    """Read the rankings of parts in long layout (a row per pair); texts are never loaded.

    Raises:
        InputError: a column is missing (file and column are named) or an id or rank is null.
    """
    source = _long_names(columns)
    tables = []
    for path in paths:
        with _open(path, filesystem) as file:
            _require(file.schema_arrow.names, source.values(), path)
            table = file.read(columns=sorted(set(source.values())))
        tables.append(_normalise({name: table[at] for name, at in source.items()}, path, source))
    return pa.concat_tables(tables) if tables else RANKINGS_SCHEMA.empty_table()


def rankings_from_table(table: pa.Table, columns: RankingColumns) -> pa.Table:
    """Take the rankings out of a table in long layout that is already in memory."""
    source = _long_names(columns)
    _require(table.column_names, source.values(), "the table")
    return _normalise({name: table[at] for name, at in source.items()}, "the table", source)


def read_lists(
    paths: Sequence[str | Path],
    columns: RankingColumns,
    *,
    candidates: str,
    filesystem: FileSystem | None = None,
) -> pa.Table:
    """Read the rankings of parts in a list layout: ``candidates`` is a list of structs.

    Rows are numbered over all parts, and the number is the group: a log may hold one query often.
    Rows with an empty or null list have no ranking and give no row.

    Raises:
        InputError: a column or field is missing, ``candidates`` is no list of structs, or an id or
            rank is null.
    """
    row_names = {"query_id": columns.query_id, "slice": columns.slice_by}
    fields = {
        "document_id": columns.document_id,
        "before_rank": columns.before_rank,
        "after_rank": columns.after_rank,
        "status": columns.status,
    }
    rows = {name: at for name, at in row_names.items() if at}
    inner = {name: at for name, at in fields.items() if at}
    tables, first_row = [], 0
    for path in paths:
        with _open(path, filesystem) as file:
            _require(file.schema_arrow.names, [candidates, *rows.values()], path)
            _require_fields(file.schema_arrow.field(candidates), inner.values(), path)
            wanted = [*rows.values(), *_leaves(file, candidates, set(inner.values()))]
            for number in range(file.num_row_groups):
                batch = file.read_row_group(number, columns=wanted)
                for chunk in batch.combine_chunks().to_batches():
                    tables.append(_explode(chunk, candidates, (rows, inner), first_row, path))
                    first_row += chunk.num_rows
    return pa.concat_tables(tables) if tables else RANKINGS_SCHEMA.empty_table()


def _open(path: str | Path, filesystem: FileSystem | None) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(str(path), filesystem=filesystem)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is not readable as Parquet ({type(error).__name__})") from error


def _long_names(columns: RankingColumns) -> dict[str, str]:
    names = {
        "group": columns.group or columns.query_id,
        "query_id": columns.query_id,
        "document_id": columns.document_id,
        "before_rank": columns.before_rank,
        "after_rank": columns.after_rank,
        "status": columns.status,
        "slice": columns.slice_by,
    }
    return {name: at for name, at in names.items() if at}


def _require(present: Collection[str], wanted: Iterable[str], path: object) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(present)}")


def _require_fields(column: pa.Field[Any], wanted: Iterable[str], path: object) -> None:
    item = getattr(column.type, "value_type", None)
    if item is None or not pa.types.is_struct(item):
        raise InputError(f"{path}: column {column.name} is {column.type}, not a list of structs")
    present = [item.field(at).name for at in range(item.num_fields)]
    missing = [name for name in wanted if name not in present]
    if missing:
        raise InputError(
            f"{path}: the structs of column {column.name} have no field {', '.join(missing)}; "
            f"they have {', '.join(present)}"
        )


def _leaves(file: pq.ParquetFile, candidates: str, fields: Collection[str]) -> list[str]:
    """Return the Parquet paths of the wanted fields, so that texts beside them stay on disk."""
    paths = [file.schema.column(at).path for at in range(len(file.schema))]
    return [
        path
        for path in paths
        if path.startswith(f"{candidates}.") and path.rsplit(".", 1)[-1] in fields
    ] or [candidates]


def _explode(
    chunk: pa.RecordBatch,
    candidates: str,
    names: tuple[Mapping[str, str], Mapping[str, str]],
    first_row: int,
    path: object,
) -> pa.Table:
    rows, inner = names
    parents = pc.list_parent_indices(chunk[candidates])
    items = pc.list_flatten(chunk[candidates])
    arrays = {name: chunk[at].take(parents) for name, at in rows.items()}
    arrays |= {name: pc.struct_field(items, at) for name, at in inner.items()}
    arrays["group"] = pc.add(parents.cast(pa.int64()), first_row)
    return _normalise(arrays, path, {**rows, **inner, "group": "row number"})


def _normalise(
    arrays: Mapping[str, pa.Array[Any] | pa.ChunkedArray[Any]],
    path: object,
    source: Mapping[str, str],
) -> pa.Table:
    """Cast to ``RANKINGS_SCHEMA``; ids become strings, absent optional columns nulls."""
    rows = len(arrays["document_id"])
    columns = []
    for field in RANKINGS_SCHEMA:
        if field.name not in arrays:
            columns.append(pa.nulls(rows, field.type))
            continue
        try:
            columns.append(arrays[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: column {source[field.name]} cannot be read as {field.type}"
            ) from error
        if columns[-1].null_count and field.name not in _OPTIONAL:
            raise InputError(f"{path}: column {source[field.name]} has nulls")
    return pa.table(columns, schema=RANKINGS_SCHEMA)
