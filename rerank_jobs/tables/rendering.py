"""Render several columns of a row as one YAML text, the form that rerank models read best.

A document is a block mapping of its columns, in the order given. What carries nothing is left out:
nulls, blank strings, empty lists, maps and structs. A string stands plain where YAML reads it back
as the same string, as a literal block where it has several lines, and double-quoted otherwise;
nothing is folded, and characters outside ASCII stay as they are, so that a model sees words.
PyYAML's ``safe_load`` gives back what was rendered, but for what YAML has no type for: times of day
and durations come back as strings, decimals as floats.

Work goes column by column: each distinct value of a column is rendered once, in Python, and Arrow
joins the pieces. A block is built without the indentation of its first line, so that it can stand
behind a key or behind a dash.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import re
from decimal import Decimal
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RENDERING_VERSION", "render_documents"]

RENDERING_VERSION = 1
"""Changes whenever the same columns would be rendered as another text."""

_INDENT = "  "

_LONGEST_KEY = 500
"""Longest key that stands before its colon: YAML readers give up after 1,024 characters."""

# Not in a literal block: what YAML readers refuse, strip or take for a line break.
_NOT_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_NOT_PLAIN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_ESCAPED = re.compile('["\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]')
_SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\x85": "\\N",
    "\u2028": "\\L",
    "\u2029": "\\P",
}

_NOT_FIRST = frozenset(" -?:,[]{}#&*!|>'\"%@`<=~")
_MAYBE_NUMBER = frozenset("0123456789+.")
# More than YAML takes for a number or a timestamp in any version: quoting too much does no harm.
_NUMBER_LIKE = re.compile(r"[-+.0-9_:eExXobBa-fA-FtTzZ ]+|[-+]?\.(?:inf|nan)", re.IGNORECASE)
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_LONGEST_WORD = 5


def render_documents(columns: Mapping[str, pa.Array[Any] | pa.ChunkedArray[Any]]) -> pa.Array[Any]:
    """Return one YAML text per row (large_string), the columns in the mapping's order.

    A row of which nothing is left is ``""``; every other text ends with a line break. The texts
    depend on the values alone, not on how arrays are chunked, sliced or encoded. Timestamps are
    written in UTC, to the microsecond.

    Raises:
        InputError: a value that cannot be rendered (text that is not UTF-8, a date beyond the year
            9999, a map whose keys are lists or structs).
        ValueError: the columns differ in length.

    """
    if len({len(column) for column in columns.values()}) != 1:
        raise ValueError("a document needs columns of the same length")
    fields = [(name, _render_column(name, column)) for name, column in columns.items()]
    blocks = _join_fields(fields, 0)
    texts: pa.Array[Any] = pc.coalesce(_concatenate(blocks, "\n"), _text(""))
    return texts


def _render_column(name: str, column: Any) -> tuple[Any, str]:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    try:
        return _render(whole, 1), _separator(whole.type, 1)
    except UnicodeDecodeError:
        problem = "holds text that is not UTF-8"
    except (ValueError, OverflowError):
        problem = "holds a value that cannot be rendered, as a date beyond the year 9999"
    except (TypeError, NotImplementedError):
        problem = f"has a type that cannot be rendered as YAML: {column.type}"
    # Raised outside the handlers: what they caught may carry the value.
    raise InputError(f"column {name} {problem}")


def _render(array: Any, depth: int) -> Any:
    """Return the text of each value (large_string), null where nothing is left.

    ``depth`` is how often the lines after the first are indented.
    """
    kind = array.type
    plainer = _simplify(array)
    if plainer is not None:
        return _render(plainer, depth)
    if pa.types.is_struct(kind):
        fields = [
            (field.name, (_render(child, depth + 1), _separator(field.type, depth + 1)))
            for field, child in zip(kind, array.flatten(), strict=True)
        ]
        return _join_fields(fields, depth) if fields else pa.nulls(len(array), pa.large_string())
    if pa.types.is_map(kind):
        keys = _map_values(_between(array, array.keys), lambda key: _render_key(key, depth))
        items = _render(_between(array, array.items), depth + 1)
        entries = _concatenate(keys, _separator(kind.item_type, depth + 1), items)
        return _join_lists(array, entries, depth)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = _render(_between(array, array.values), depth + 1)
        return _join_lists(array, _concatenate("- ", items), depth)
    return _map_values(array, lambda value: _render_scalar(value, depth))


def _separator(kind: Any, depth: int) -> str:
    """Return what stands between a key's colon and its value: blocks begin a new line."""
    while isinstance(kind, pa.BaseExtensionType | pa.DictionaryType | pa.RunEndEncodedType):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    return f"\n{_INDENT * depth}" if pa.types.is_nested(kind) else " "


def _join_fields(fields: list[tuple[str, tuple[Any, str]]], depth: int) -> Any:
    lines = [
        _concatenate(_render_key(name, depth) + separator, texts)
        for name, (texts, separator) in fields
    ]
    # Arrow's join loses rows of which every text is null.
    nothing = reduce(pc.and_, map(pc.is_null, lines))
    lines[0] = pc.if_else(nothing, "", lines[0])
    between = _text(f"\n{_INDENT * depth}")
    return _drop_empty(pc.binary_join_element_wise(*lines, between, null_handling="skip"))


def _join_lists(array: Any, entries: Any, depth: int) -> Any:
    """Join the entries of each list that are left; ``entries`` begin at the first offset."""
    kept = np.concatenate(([0], np.cumsum(entries.is_valid().to_numpy(zero_copy_only=False))))
    offsets = array.offsets.to_numpy(zero_copy_only=False)
    ends = pa.array(kept[offsets - offsets[0]].astype(np.int32))
    lists = pa.ListArray.from_arrays(ends, entries.drop_null())
    joined = pc.binary_join(lists, _text(f"\n{_INDENT * depth}"))
    if array.null_count:
        joined = pc.if_else(array.is_valid(), joined, None)
    return _drop_empty(joined)


def _between(array: Any, child: Any) -> Any:
    """Return the part of a child that the (perhaps sliced) array refers to."""
    offsets = array.offsets
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    return child.slice(first, last - first)


def _concatenate(*parts: Any) -> Any:
    """Join texts and constants row by row, null where a text is null."""
    texts = [_text(part) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*texts, _text(""))


def _text(constant: str) -> Any:
    return pa.scalar(constant, pa.large_string())


def _drop_empty(texts: Any) -> Any:
    return pc.if_else(pc.not_equal(texts, _text("")), texts, None)


def _map_values(array: Any, render: Callable[[Any], str]) -> Any:
    """Render each distinct value once; null where it is null or its text is empty."""
    encoded = array.dictionary_encode()
    texts = [None if value is None else render(value) or None for value in _values(encoded)]
    return pa.array(texts, pa.large_string()).take(encoded.indices)


def _values(encoded: Any) -> list[Any]:
    values = encoded.dictionary
    if pa.types.is_floating(values.type) and values.type.bit_width < 64:
        # The shortest text of a narrow float: 0.1, not the 0.10000000149011612 of its double.
        return [float(text) for text in values.cast(pa.float32()).cast(pa.string()).to_pylist()]
    plain: list[Any] = values.to_pylist()
    return plain


def _render_key(key: object, depth: int) -> str:
    """Return a key with its colon; a long one explicitly, as YAML readers want it."""
    if isinstance(key, str):
        text = key if key and _is_plain(key) else _quote(key)
    else:
        text = _render_scalar(key, depth)
    if len(text) > _LONGEST_KEY:
        return f"? {text}\n{_INDENT * depth}:"
    return f"{text}:"


def _render_scalar(value: object, depth: int) -> str:
    """Return the text of a value that is no container; ``""`` for a blank string."""
    render = _SCALARS.get(type(value))
    if render is not None:
        return render(value)
    text = str(value)
    if not text or text.isspace():
        return ""
    if "\n" in text and not _NOT_RAW.search(text):
        return _render_literal(text, _INDENT * depth)
    return text if _is_plain(text) else _quote(text)


def _is_plain(text: str) -> bool:
    """Say whether a non-empty text without quotes is read back as the same string."""
    first = text[0]
    if first in _NOT_FIRST or text[-1] in " :" or ": " in text or " #" in text:
        return False
    if not text.isprintable() and _NOT_PLAIN.search(text):
        return False
    if first in _MAYBE_NUMBER and _NUMBER_LIKE.fullmatch(text):
        return False
    return len(text) > _LONGEST_WORD or text.lower() not in _WORDS


def _quote(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    short = _SHORT_ESCAPES.get(character)
    if short:
        return short
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _render_literal(text: str, pad: str) -> str:
    """Return a block whose indentation is named, so that its first line may begin with spaces."""
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    chomp = ("-", "", "+")[min(ends, 2)]
    lines = (body + "\n" * max(ends - 1, 0)).replace("\n", "\n" + pad)
    return f"|{len(_INDENT)}{chomp}\n{pad}{lines}"


def _render_float(value: float) -> str:
    if math.isfinite(value):
        text = repr(value)
        # YAML 1.1 knows no exponent without a point.
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"


_SCALARS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: str,
    float: _render_float,
    Decimal: lambda value: format(value, "f"),
    dt.date: dt.date.isoformat,
    dt.datetime: dt.datetime.isoformat,
    bytes: lambda value: f'!!binary "{base64.b64encode(value).decode()}"',
}


def _simplify(array: Any) -> Any:  # noqa: PLR0911 - one line per type
    """Return the same values in a type that is read directly, ``None`` if it is one."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return array.storage
    if pa.types.is_dictionary(kind):
        return array.dictionary_decode()
    if pa.types.is_run_end_encoded(kind):
        return pc.call_function("run_end_decode", [array])
    if isinstance(kind, pa.FixedSizeListType):
        return array.cast(pa.large_list(kind.value_field))
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return array.cast(pa.decimal128(kind.precision, kind.scale))
    if pa.types.is_timestamp(kind) and (kind.unit == "ns" or kind.tz not in {None, "UTC"}):
        return array.cast(pa.timestamp("us", kind.tz and "UTC"), safe=False)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return array.cast(pa.duration("us"), safe=False)
    if kind == pa.time64("ns"):
        return array.cast(pa.time64("us"), safe=False)
    return None
