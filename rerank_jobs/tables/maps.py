"""Maps as lists of key-value structs and back: a map may hold a key twice, and must keep both.

DuckDB refuses to take an Arrow map with a repeated key, which real attribute columns have; a list
of structs is the same memory under another name.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import pyarrow as pa

__all__ = ["holds_map", "lists_for_maps", "restore"]


def holds_map(kind: pa.DataType) -> bool:
    """Say whether a type is, or holds at any depth, a map."""
    if pa.types.is_map(kind):
        return True
    return any(holds_map(kind.field(i).type) for i in range(kind.num_fields))


def lists_for_maps(kind: pa.DataType) -> pa.DataType:
    """Return the type with each map as a list of structs (key, value)."""
    if pa.types.is_map(kind):
        key = pa.field("key", lists_for_maps(kind.key_type), nullable=False)
        return pa.list_(pa.struct([key, pa.field("value", lists_for_maps(kind.item_type))]))
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([field.with_type(lists_for_maps(field.type)) for field in fields])
    if _is_list(kind):
        return pa.list_(kind.value_field.with_type(lists_for_maps(kind.value_type)))
    return kind


def restore(array: pa.Array[Any], kind: pa.DataType) -> pa.Array[Any]:
    """Return an array as ``kind``, lists of structs turned back to maps; other parts are cast."""
    # The ignores: in the stubs only the classes of nested arrays and types have parts.
    if not holds_map(kind):
        return array.cast(kind)
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        children = [
            restore(array.field(i), field.type)  # type: ignore[attr-defined]
            for i, field in enumerate(fields)
        ]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())
    if pa.types.is_map(array.type):
        return array.cast(kind)
    inner = _entries(kind) if pa.types.is_map(kind) else kind.value_type  # type: ignore[attr-defined]
    child = restore(array.values, inner)  # type: ignore[attr-defined]
    if pa.types.is_large_list(kind):
        array = array.cast(pa.large_list(array.type.value_field))
    return pa.Array.from_buffers(
        kind, len(array), array.buffers()[:2], offset=array.offset, children=[child]
    )


def _entries(kind: pa.MapType[Any, Any, Any]) -> pa.DataType:
    key = pa.field("key", kind.key_type, nullable=False)
    return pa.struct([key, pa.field("value", kind.item_type)])


def _is_list(kind: pa.DataType) -> TypeGuard[pa.ListType[Any]]:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
