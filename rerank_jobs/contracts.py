"""The data contracts of ``schemas/`` as Arrow schemas, and the check of a table against its own."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from rerank_jobs.config import Columns, Input
from rerank_jobs.errors import InputError

__all__ = [
    "Role",
    "arrow_schema",
    "check_input",
    "contract_versions",
    "is_ours",
    "load_roles",
    "schema_folder",
]

PREFIX = "rerank_"
"""Every column that this project adds begins with it."""

INTERNAL = "_rj_"
"""Columns of work files begin with it; they never reach an output."""

_DERIVED = {"search_summary", "day_summary"}
"""Contracts of tables that are made from what is published, and decide nothing that is."""

# DuckDB adds these to a Parquet scan, and by them rows are numbered: a column of the same name in
# the file would hide them.
_DATABASE_NAMES = {"file_index", "file_row_number"}

_ATOMS: dict[str, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "binary[16]": pa.binary(16),
    "timestamp[us]": pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, slots=True)
class Role:
    """One role of an input contract: its name, the kinds of type that it takes, if it must be."""

    name: str
    kinds: tuple[str, ...]
    required: bool


def schema_folder() -> Path:
    """Return the folder of contract files: packaged in a wheel, at the top of a source tree."""
    packaged = Path(__file__).parent / "_schemas"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "schemas"


@functools.cache
def _load(name: str) -> dict[str, Any]:
    (path,) = schema_folder().glob(f"{name}.v*.yaml")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def contract_versions() -> dict[str, int]:
    """Return the version of every contract that is a part of each plan's identity.

    Those of summaries are not: a change of them must not make another plan.
    """
    files = sorted(path.name for path in schema_folder().iterdir() if ".v" in path.name)
    versions = {name.split(".v")[0]: int(name.split(".v")[1].split(".")[0]) for name in files}
    return {name: version for name, version in versions.items() if name not in _DERIVED}


@functools.cache
def arrow_schema(name: str) -> pa.Schema:
    """Return the columns that the contract ``name`` (scored, ledger, day_summary, …) fixes."""
    return pa.schema(
        [pa.field(item["name"], _arrow_type(item["type"])) for item in _load(name)["columns"]]
    )


def _arrow_type(text: str) -> pa.DataType:
    if inner := re.fullmatch(r"list<(.+)>", text):
        return pa.list_(_arrow_type(inner[1]))
    return _ATOMS[text]


def load_roles(layout: str) -> tuple[Role, ...]:
    """Return the roles of an input layout."""
    name = "search_log" if layout == "search_log" else "candidates"
    return tuple(
        Role(item["name"], tuple(item["kinds"]), bool(item["required"]))
        for item in _load(name)["roles"]
    )


def check_input(schema: pa.Schema, spec: Input, where: str, *, replace: bool) -> None:
    """Check a table's schema against the contract of its layout.

    Raises:
        InputError: names the table, the column and what to change; a column is missing, has a type
            that its role cannot take, stands twice, or carries our own prefix.

    """
    _check_names(schema.names, where, replace=replace)
    struct = _struct_fields(schema, spec.columns, where) if spec.layout != "long" else None
    if struct is not None:
        inner = [field.name for field in struct]
        _check_names(inner, where, parent=spec.columns.candidates, replace=replace)
    inside = {
        "document_id",
        "document",
        "first_stage_score",
        "first_stage_rank",
        "position",
        "clicked",
    }
    for role in load_roles(spec.layout):
        fields = struct if struct is not None and role.name in inside else list(schema)
        named = getattr(spec.columns, role.name)
        for column in [named] if isinstance(named, str) else list(named or ()):
            if is_ours(column):
                raise InputError(
                    f"{where}: input.columns.{role.name} names {column!r}, but columns that begin"
                    f" with {PREFIX!r} are dropped: rename it in the table"
                )
            _check_column(
                column, role, fields, where, spec.columns.candidates if fields is struct else None
            )
        if role.required and not named:
            raise InputError(f"{where}: input.columns.{role.name} must name a column")


def is_ours(name: str) -> bool:
    """Say whether a column or field carries our prefix, in any case: engines ignore case."""
    return name.lower().startswith(PREFIX)


def _check_names(
    names: Sequence[str], where: str, *, parent: str | None = None, replace: bool
) -> None:
    lowered: dict[str, str] = {}
    for name in names:
        shown = _show_name(name, parent)
        if name in lowered.values():
            raise InputError(f"{where}: {shown} stands twice: rename one of them")
        other = lowered.setdefault(name.lower(), name)
        if other != name:
            raise InputError(
                f"{where}: {shown} and {_show_name(other, parent)} differ only in case: rename one"
            )
        if name.lower() in _DATABASE_NAMES and parent is None:
            raise InputError(f"{where}: {shown} has a name that the database needs: rename it")
        if name.lower().startswith(INTERNAL):
            raise InputError(f"{where}: {shown} begins with {INTERNAL!r}, which is ours: rename it")
        if is_ours(name) and not replace:
            raise InputError(
                f"{where}: {shown} begins with {PREFIX!r}, which output columns carry:"
                " rename it, or set output.replace: true to drop such columns"
            )


def _show_name(name: str, parent: str | None) -> str:
    return f"field {parent}.{name}" if parent else f"column {name!r}"


def _struct_fields(schema: pa.Schema, columns: Columns, where: str) -> list[pa.Field[Any]]:
    name = columns.candidates or ""
    role = Role("candidates", ("list",), required=True)
    _check_column(name, role, list(schema), where, None)
    value = schema.field(name).type.value_type
    if not pa.types.is_struct(value):
        raise InputError(f"{where}: column {name!r} is a list of {value}, not a list of structs")
    return [value.field(i) for i in range(value.num_fields)]


def _check_column(
    column: str, role: Role, fields: Sequence[pa.Field[Any]], where: str, parent: str | None
) -> None:
    what = _show_name(column, parent)
    found = next((field for field in fields if field.name == column), None)
    if found is None:
        names = [field.name for field in fields]
        near = difflib.get_close_matches(column, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:12])}"
        raise InputError(f"{where}: {what} (input.columns.{role.name}) is missing: {hint}")
    if "any" not in role.kinds and not any(_is_kind(found.type, kind) for kind in role.kinds):
        wanted = " or ".join(role.kinds)
        raise InputError(
            f"{where}: {what} (input.columns.{role.name}) is {found.type}, but must be {wanted}:"
            " cast it, or name another column"
        )


def _is_kind(kind: pa.DataType, name: str) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
    integer = pa.types.is_integer(kind)
    return {
        "string": text,
        "integer": integer,
        "number": integer or pa.types.is_floating(kind) or pa.types.is_decimal(kind),
        "boolean": pa.types.is_boolean(kind),
        "list": pa.types.is_list(kind) or pa.types.is_large_list(kind),
    }[name]
