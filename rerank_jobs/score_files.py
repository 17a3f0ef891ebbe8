"""Files of scores that were paid elsewhere: read in blocks, each value checked before it counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rerank_jobs.config import Context
from rerank_jobs.errors import InputError, JobError
from rerank_jobs.plan.cluster import VISIBLE
from rerank_jobs.plan.counting import TokenCounter
from rerank_jobs.plan.passages import count_query_tokens
from rerank_jobs.plan.windows import passage_limit

__all__ = ["COLUMNS", "ScoreFile", "read_scores"]

COLUMNS = ("query", "document", "score", "model", "date", "provider", "parts")
"""What a file offers; the first five are needed."""

NEEDED = 5
BLOCK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """A file and what its rows must be.

    ``columns`` maps ``COLUMNS`` to the file's own. ``model`` is ``None`` where any will do; no date
    may lie behind ``now`` (UTC).
    """

    path: Path
    columns: Mapping[str, str]
    model: str | None
    now: datetime
    context: Context
    counter: TokenCounter


def read_scores(file: ScoreFile) -> Iterator[pa.Table]:
    """Yield blocks of checked rows: columns ``COLUMNS``, dates as instants in UTC.

    Raises:
        InputError: names file, row (from 0) and column of the first wrong value; never the value.
        JobError: the file is neither .csv nor .parquet.

    """
    first = 0
    for block in _read_blocks(file.path, file.columns):
        yield _check(block, first, file)
        first += block.num_rows
    if first == 0:
        raise InputError(f"{file.path}: holds no rows")


def _read_blocks(file: Path, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    try:
        yield from _open_blocks(file, columns)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({type(error).__name__}): write it again as UTF-8 CSV with a"
            " header, or as Parquet"
        ) from None


def _open_blocks(file: Path, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            chosen = _choose(file, columns, parquet.schema_arrow.names)
            for batch in parquet.iter_batches(BLOCK_ROWS, columns=list(chosen.values())):
                yield _rename(pa.Table.from_batches([batch]), chosen)
    elif suffix == ".csv":
        parsing = pa_csv.ParseOptions(newlines_in_values=True)
        with pa_csv.open_csv(file, parse_options=parsing) as head:
            chosen = _choose(file, columns, head.schema.names)
        # As text all of them: what a column is taken for must not depend on its first rows.
        options = pa_csv.ConvertOptions(
            include_columns=list(chosen.values()),
            column_types=dict.fromkeys(chosen.values(), pa.string()),
            strings_can_be_null=False,
        )
        with pa_csv.open_csv(file, parse_options=parsing, convert_options=options) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, BLOCK_ROWS):
                    part = batch.slice(start, BLOCK_ROWS)
                    yield _rename(pa.Table.from_batches([part]), chosen)
    else:
        raise JobError(f"{file}: the name must end in .parquet or .csv")


def _choose(file: Path, columns: Mapping[str, str], present: list[str]) -> dict[str, str]:
    for name in COLUMNS[:NEEDED]:
        if columns[name] not in present:
            shown = ", ".join(repr(found) for found in present[:12])
            raise InputError(
                f"{file}: column {columns[name]!r} ({name}) is missing: it has {shown}; --columns"
                f" {name}=COLUMN names another"
            )
    return {name: columns[name] for name in COLUMNS if columns[name] in present}


def _rename(table: pa.Table, chosen: Mapping[str, str]) -> pa.Table:
    return pa.table({name: table.column(column) for name, column in chosen.items()})


def _check(block: pa.Table, first: int, file: ScoreFile) -> pa.Table:
    """Return a block as it is sealed.

    Raises:
        InputError: the first wrong row of the first wrong column.

    """
    texts = {name: _to_text(block, name, first, file) for name in ("query", "document", "model")}
    score = _to_number(block, "score", first, file, pa.float64())
    _refuse(pc.invert(pc.is_finite(score)), "score", first, file, "is no finite number")
    date = _to_instant(block.column("date"), first, file)
    if file.model is not None:
        other = pc.not_equal(texts["model"], pa.scalar(file.model))
        reason = f"is not the job's model {file.model!r}: --any-model imports it all the same"
        _refuse(other, "model", first, file, reason)
    _check_context(texts["query"], texts["document"], first, file)
    absent = pa.nulls(block.num_rows, pa.string())
    names = block.schema.names
    provider = block.column("provider").cast(pa.string()) if "provider" in names else absent
    parts = pa.nulls(block.num_rows, pa.int32())
    if "parts" in names:
        parts = _to_number(block, "parts", first, file, pa.int32(), needed=False)
    columns = [texts["query"], texts["document"], score, texts["model"], date]
    return pa.table([*columns, _drop_empty(provider), parts], names=list(COLUMNS))


def _drop_empty(texts: Any) -> Any:
    """Return texts with null in place of the empty one."""
    return pc.if_else(pc.equal(texts, pa.scalar("")), pa.scalar(None, pa.string()), texts)


def _match(texts: Any, pattern: str) -> Any:
    """Say of each text whether the pattern is found in it; not in null."""
    return np.asarray(pc.match_substring_regex(texts, pattern).fill_null(False))


def _to_text(block: pa.Table, name: str, first: int, file: ScoreFile) -> pa.ChunkedArray[Any]:
    column = block.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InputError(f"{file.path}: column {file.columns[name]!r} ({name}) is no text")
    text: Any = column.cast(pa.string())
    visible = _match(text, VISIBLE)
    _refuse(~visible, name, first, file, "is null or blank")
    return text  # type: ignore[no-any-return]


def _to_number(
    block: pa.Table,
    name: str,
    first: int,
    file: ScoreFile,
    kind: pa.DataType,
    *,
    needed: bool = True,
) -> Any:
    column: Any = block.column(name)
    if pa.types.is_string(column.type):
        column = _drop_empty(pc.utf8_trim_whitespace(column))
        shape = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$" if kind == pa.float64() else r"^\d{1,9}$"
        _refuse(
            ~_match(column, shape) & ~np.asarray(column.is_null()),
            name,
            first,
            file,
            "is no number",
        )
    if needed:
        _refuse(pc.is_null(column), name, first, file, "is null")
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        raise InputError(
            f"{file.path}: column {file.columns[name]!r} ({name}) is not of numbers"
        ) from None


def _to_instant(column: pa.ChunkedArray[Any], first: int, file: ScoreFile) -> pa.Array[Any]:
    """Return instants of dates or times; one without a zone is in UTC."""
    values: list[Any] = column.to_pylist()
    known: dict[Any, datetime | None] = {value: _parse_instant(value) for value in set(values)}
    instants = [known[value] for value in values]
    wrong = pa.array([instant is None for instant in instants])
    _refuse(wrong, "date", first, file, "is no date or time in ISO 8601")
    late = pa.array([instant > file.now for instant in instants if instant is not None])
    _refuse(late, "date", first, file, "lies in the future")
    return pa.array(instants, pa.timestamp("us", tz="UTC"))


def _parse_instant(value: Any) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        if not isinstance(parsed, datetime):
            parsed = datetime.combine(parsed, time())
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def _check_context(queries: Any, documents: Any, first: int, file: ScoreFile) -> None:
    context = file.context
    query_tokens = count_query_tokens(queries.combine_chunks(), context, file.counter)
    over = file.counter.count(documents) > passage_limit(context.tokens, query_tokens)
    reason = (
        "is longer than the context: the job sends its windows, so import those, as rerank-jobs"
        " ledger export writes them"
    )
    _refuse(over, "document", first, file, reason)


def _refuse(wrong: Any, name: str, first: int, file: ScoreFile, reason: str) -> None:
    """Raise for the first row that is wrong; the value itself is never shown."""
    found = np.flatnonzero(np.asarray(wrong))
    if len(found):
        column = file.columns[name]
        raise InputError(f"{file.path}: row {first + int(found[0])}, column {column!r} {reason}")
