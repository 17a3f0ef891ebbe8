"""Input tables: which files, which schema, which rows, as facts and as one DuckDB scan.

A row's number is its position in the files taken in the order of their relative paths; it never
depends on threads or on how the scan is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.config import Job, check_partition_key
from rerank_jobs.contracts import check_input, is_ours
from rerank_jobs.errors import InputError, JobError
from rerank_jobs.storage import sha256_of_file

__all__ = [
    "ELEMENT_BITS",
    "ELEMENT_MASK",
    "ROW",
    "InputFile",
    "InputTable",
    "find_tables",
    "locate_input",
    "open_input",
    "quote",
    "quote_text",
    "read_files",
]

ROW = "_rj_row"
"""Internal column: the row's number over all files."""

ELEMENT_BITS = 21
"""In list layouts a candidate's ``ref`` is ``row << ELEMENT_BITS | its position in the list``."""

ELEMENT_MASK = (1 << ELEMENT_BITS) - 1

_HIVE = re.compile(r"([A-Za-z0-9_.-]+)=(.*)")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file: path relative to the input location, absolute path, bytes, rows, SHA-256."""

    name: str
    path: str
    size: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InputTable:
    """An input table as found: files in order, their common schema, hive columns last.

    ``row_bytes`` is the mean decoded size of a row by the files' own footers. ``lists`` is the list
    column whose structs are read without our own fields, which an earlier run added.
    """

    location: str
    files: tuple[InputFile, ...]
    schema: pa.Schema
    hive: tuple[str, ...]
    row_bytes: int
    lists: str | None = None

    @property
    def rows(self) -> int:
        """All rows of all files."""
        return sum(file.rows for file in self.files)

    def scan_sql(self) -> str:
        """Return a DuckDB query of every column in order, and ``ROW``."""
        offsets, total = [], 0
        for file in self.files:
            offsets.append(str(total))
            total += file.rows
        paths = ", ".join(quote_text(_escape_glob(file.path)) for file in self.files)
        columns = ", ".join(self._column_sql(name) for name in self.schema.names)
        hive = "true, hive_types_autocast=false" if self.hive else "false"
        return (
            f"SELECT {columns}, "
            f"list_extract([{', '.join(offsets)}]::BIGINT[], file_index::BIGINT + 1)"
            f" + file_row_number AS {ROW} "
            f"FROM read_parquet([{paths}], hive_partitioning={hive}, union_by_name=true)"
        )

    def _column_sql(self, name: str) -> str:
        if name != self.lists:
            return quote(name)
        struct = self.schema.field(name).type.value_type
        names = [quote(struct.field(i).name) for i in range(struct.num_fields)]
        packed = ", ".join(f"{field} := _rj_item.{field}" for field in names)
        item = f"CASE WHEN _rj_item IS NOT NULL THEN struct_pack({packed}) END"
        return f"list_transform({quote(name)}, lambda _rj_item: {item}) AS {quote(name)}"

    def locate(self, row: int) -> tuple[str, int]:
        """Return (file name, row in that file) of a row number."""
        for file in self.files:
            if row < file.rows:
                return file.name, row
            row -= file.rows
        raise IndexError(row)


def open_input(job: Job, partition: str) -> InputTable:
    """Find, check and digest a partition's input without reading its rows.

    Raises:
        InputError: nothing is there, a file is not Parquet, files disagree on a column's type, the
            table is empty, or it does not fit the contract of its layout.
        JobError: the location is of a kind that this version cannot reach, or what the job writes
            would be read as its input.

    """
    root = locate_input(job, partition)
    _check_apart(job, partition, root)
    return read_files(job, _find_files(root, f"job {job.name}"), root, replace=job.output.replace)


def locate_input(job: Job, partition: str) -> Path:
    """Return the file or folder of a partition's input, which need not be there.

    Raises:
        JobError: the location is of a kind that this version cannot reach, or needs a key.

    """
    location = job.input_location(check_partition_key(partition))
    if "://" in location:
        scheme = location.split("://", 1)[0]
        raise JobError(f"{location}: {scheme}:// locations are not supported yet: use a local path")
    return Path(location)


def find_tables(folder: Path) -> Iterator[Path]:
    """Yield the Parquet files of a folder, also a missing one, as the listing goes."""
    for path in folder.rglob("*.parquet"):
        if path.is_file() and not _is_hidden(path.relative_to(folder)):
            yield path


def read_files(job: Job, files: list[Path], root: Path, *, replace: bool) -> InputTable:
    """Return the table of given Parquet files under ``root``, checked as a job's input is.

    With ``replace`` columns of ours are left out.

    Raises:
        InputError: see ``open_input``.

    """
    location = str(root)
    schemas, found, stored = [], [], 0
    for path in files:
        metadata, schema = _read_footer(path)
        schemas.append((path, schema))
        stored += sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        name = path.name if path == root else path.relative_to(root).as_posix()
        found.append(
            InputFile(name, str(path), path.stat().st_size, metadata.num_rows, sha256_of_file(path))
        )
    rows = sum(file.rows for file in found)
    if rows == 0:
        raise InputError(
            f"{location}: the table has no rows: check what wrote it, or skip this partition"
        )
    schema = _unify(schemas, location)
    hive = _hive_columns([file.name for file in found], location, schema)
    check_input(_with_hive(schema, hive), job.input, location, replace=replace)
    schema, lists = _with_hive(schema, hive), None
    if replace:
        schema, lists = _drop_ours(schema, job.input.columns.candidates)
    return InputTable(location, tuple(found), schema, hive, max(1, stored // rows), lists)


def quote(name: str) -> str:
    """Return ``name`` as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return ``text`` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _check_apart(job: Job, partition: str, root: Path) -> None:
    folder = job.partition_folder(partition)
    written = {
        "output.path": Path(job.output_root) / folder,
        "output.path (its rejected table)": Path(job.rejected_root) / folder,
        "state.path": Path(job.state_root),
    }
    for name, path in written.items():
        inside = path.is_relative_to(root) and not _is_hidden(path.relative_to(root))
        if (inside and not root.is_file()) or (path == root.parent and root.is_file()):
            raise JobError(
                f"job {job.name}: {name} {path} lies in input.path {root}: what one run wrote, the"
                " next would read: move one of them"
            )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _find_files(root: Path, who: str) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(
            f"{root}: no such file or folder (input.path of {who}): check the path, or write"
            " the table first"
        )
    files = list(find_tables(root))
    if not files:
        raise InputError(f"{root}: the folder holds no *.parquet file (input.path of {who})")
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _read_footer(path: Path) -> tuple[pq.FileMetaData, pa.Schema]:
    try:
        with pq.ParquetFile(path) as file:
            return file.metadata, file.schema_arrow.remove_metadata()
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(
            f"{path}: not a readable Parquet file: remove it, or write it again"
        ) from None


def _drop_ours(schema: pa.Schema, lists: str | None) -> tuple[pa.Schema, str | None]:
    """Return the schema without our columns, and the list column if its structs lost fields."""
    schema = pa.schema([field for field in schema if not is_ours(field.name)])
    if lists is None:
        return schema, None
    index = schema.get_field_index(lists)
    struct = schema.field(index).type.value_type
    fields = [struct.field(i) for i in range(struct.num_fields)]
    kept = [field for field in fields if not is_ours(field.name)]
    if len(kept) == len(fields):
        return schema, None
    return schema.set(index, pa.field(lists, pa.list_(pa.struct(kept)))), lists


def _unify(schemas: list[tuple[Path, pa.Schema]], location: str) -> pa.Schema:
    first_path, first = schemas[0]
    fields = {field.name: (field, first_path) for field in first}
    for path, schema in schemas:
        if len(set(schema.names)) < len(schema.names):
            twice = next(name for name in schema.names if schema.names.count(name) > 1)
            raise InputError(f"{path}: column {twice!r} stands twice: rename one of them")
        for field in schema:
            known, known_path = fields.setdefault(field.name, (field, path))
            if known.type != field.type:
                raise InputError(
                    f"{path}: column {field.name!r} is {field.type}, but {known.type} in"
                    f" {known_path.name}: the files under {location} must agree"
                )
    return pa.schema([field.with_nullable(True) for field, _ in fields.values()])


def _hive_columns(names: list[str], location: str, schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns that stand in folder names; where the files hold them, theirs count."""
    keys = {
        tuple(m[1] for part in name.split("/")[:-1] if (m := _HIVE.fullmatch(part)))
        for name in names
    }
    if len(keys) > 1:
        raise InputError(
            f"{location}: its files lie in different hive partition levels: {sorted(keys)[:3]}"
        )
    hive = next(iter(keys))
    inside = [name for name in hive if name in schema.names]
    if inside and len(inside) < len(hive):
        raise InputError(
            f"{location}: of its hive columns {', '.join(hive)} the files hold {inside[0]!r} too:"
            " write all of them into the files, or none"
        )
    return () if inside else hive


def _with_hive(schema: pa.Schema, hive: tuple[str, ...]) -> pa.Schema:
    return pa.schema([*schema, *(pa.field(name, pa.string()) for name in hive)])


def _escape_glob(path: str) -> str:
    return re.sub(r"([*?\[\]])", r"[\1]", path)
