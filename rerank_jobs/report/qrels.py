"""Relevance judgements (qrels) from Parquet, CSV, TSV or TREC text, with ids as strings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rerank_jobs.errors import InputError

__all__ = ["DOCUMENT_NAMES", "QRELS_SCHEMA", "QUERY_NAMES", "RELEVANCE_NAMES", "read_qrels"]

QUERY_NAMES = ("query_id", "query-id", "qid", "topic")
DOCUMENT_NAMES = ("document_id", "doc_id", "docid", "docno", "corpus-id")
RELEVANCE_NAMES = ("relevance", "rel", "grade", "label", "score")

_FIELDS: list[pa.Field[Any]] = [
    pa.field("query_id", pa.string()),
    pa.field("document_id", pa.string()),
    pa.field("relevance", pa.int64()),
]
QRELS_SCHEMA = pa.schema(_FIELDS)

_TREC_COLUMNS = ["query_id", "iteration", "document_id", "relevance"]


def read_qrels(path: str | Path) -> pa.Table:
    """Return the judgements as distinct (query_id, document_id) rows of ``QRELS_SCHEMA``.

    The suffix decides the format: ``.parquet``; ``.csv`` and ``.tsv`` with a header; anything
    else, and a ``.tsv`` whose first line is a judgement, is TREC text (query, iteration, document,
    relevance, divided by white space). Ids of any type become strings; ids in text files keep
    their zeros. Grades below 0 (spam in TREC's web tracks) count as 0.

    Raises:
        InputError: the file is missing or unreadable, a column is missing, a grade is not a whole
            number, or one document has two grades for one query.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"qrels file {path} does not exist: name a Parquet, CSV, TSV or TREC file")
    try:
        table = _read_any(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"qrels file {path} is not readable ({type(error).__name__})") from error
    columns = {
        "query_id": _find(table, QUERY_NAMES, path),
        "document_id": _find(table, DOCUMENT_NAMES, path),
        "relevance": _find(table, RELEVANCE_NAMES, path),
    }
    ids = [table[columns[name]].cast(pa.string()) for name in ("query_id", "document_id")]
    grades = _grades(table[columns["relevance"]], path, columns["relevance"])
    for name, column in zip(columns, [*ids, grades], strict=True):
        if column.null_count:
            raise InputError(f"qrels file {path}: column {columns[name]} has nulls")
    return _distinct(pa.table([*ids, grades], schema=QRELS_SCHEMA), path)


def _read_any(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.ParquetFile(path).read()
    if path.suffix == ".csv" or (path.suffix == ".tsv" and not _is_trec(path)):
        return _read_delimited(path, "," if path.suffix == ".csv" else "\t")
    return _read_trec(path)


def _is_trec(path: Path) -> bool:
    """Say whether the first line is a judgement and not a header."""
    with path.open(encoding="utf-8-sig") as lines:
        fields = next(lines, "").split()
    return len(fields) == len(_TREC_COLUMNS) and fields[3].lstrip("+-").isdigit()


def _read_delimited(path: Path, delimiter: str) -> pa.Table:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines, delimiter=delimiter), [])
    if not header:
        raise InputError(f"qrels file {path} is empty")
    return pa_csv.read_csv(
        path,
        parse_options=pa_csv.ParseOptions(delimiter=delimiter),
        # Without types the reader would turn "007" into 7.
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        ),
    )


def _read_trec(path: Path) -> pa.Table:
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split()
            if fields and len(fields) != len(_TREC_COLUMNS):
                raise InputError(
                    f"qrels file {path}, line {number}: {len(fields)} fields where TREC text has 4 "
                    "(query, iteration, document, relevance); name a CSV file .csv, a TSV .tsv"
                )
            if fields:
                rows.append(fields)
    columns = list(zip(*rows, strict=True)) or [()] * len(_TREC_COLUMNS)
    return pa.table(
        [pa.array(column, pa.string()) for column in columns], names=list(_TREC_COLUMNS)
    )


def _find(table: pa.Table, names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise InputError(
        f"qrels file {path} has no column {names[0]} (nor {', '.join(names[1:])}); "
        f"it has {', '.join(table.column_names)}"
    )


def _grades(column: pa.ChunkedArray[Any], path: Path, name: str) -> pa.ChunkedArray[Any]:
    """Read grades as whole numbers >= 0; ``2.0`` is a whole number, ``0.5`` is an error."""
    try:
        grades = column.cast(pa.float64()).cast(pa.int64())
    except pa.ArrowException as error:
        raise InputError(
            f"qrels file {path}: column {name} must hold whole numbers (grades)"
        ) from error
    zero = pa.scalar(0, pa.int64())
    clamped: pa.ChunkedArray[Any] = pc.if_else(pc.less(grades, zero), zero, grades)
    return clamped


def _distinct(table: pa.Table, path: Path) -> pa.Table:
    pairs = table.group_by(["query_id", "document_id"], use_threads=False).aggregate(
        [("relevance", "min"), ("relevance", "max")]
    )
    conflicts = pairs.filter(pc.not_equal(pairs["relevance_min"], pairs["relevance_max"]))
    if conflicts.num_rows:
        raise InputError(
            f"qrels file {path}: {conflicts.num_rows} documents have two grades for one query"
        )
    return pairs.select(["query_id", "document_id", "relevance_max"]).rename_columns(
        QRELS_SCHEMA.names
    )
