# ruff: noqa: E501, SIM905
"""YAML readers give back what was rendered, whatever the strings and types are."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank_jobs.tables.rendering import render_documents

_TRAPS = (
    "yes no on off y N true NULL null ~ Yes = << .inf -.INF .nan +.inf .NaN . .. ... --- -- - "
    "1 -1 +1 0 00 017 0o17 0x1F 0b101 1_000 1e3 1E3 1.0e+3 1. .5 .5e1 1.5.2 190:20:30 12:30 1:2 "
    "2026-01-01 2026-1-1 2026-01-01T10:00:00Z 12e 0x 1,000 a: :a a:b : :: #x a#b # &a *a !a !!str "
    "%YAML @a `a ? ?a [a] {a} a] , a,b | > |2 ' '' \" \\ \\n a'b $ ( / + _ ; <"
).split(" ")
_MORE_TRAPS = [
    "2026-01-01 10:00:00", "- a", "? a", "a: b", "a #b", " a", "a ", "a  b", "\ta", "a\t", "a\tb",
    "a\nb", "a\n", "\na", "\n\na\n\n", " a\n  b\n c", "a\n \nb", "a\n  ", "\ta\n\tb\n", "a\r\nb", "a\rb",
    "a\x85b", "a\u2028b", "a\u2029", "\ufeffa", "a\ufeff", "a\u00a0b", "\u00a0a\u00a0", "\u3000a",
    "a\x00b", "\x07", "\x7f", "\x9f", "a\u200db", "\ufffe", "\uffff", "\U0001fffe", "🙂", "👩\u200d🚀",
    "日本語", "naïve: x", "x" * 3000, "long key: " * 200, "--- a\n--- b", "... \n", "# a\n# b", "%a\n%b",
]  # fmt: skip
_SPICY = " \n\t:#-?[]{},&*!|>'\"%@`~=<\\.+_0123456789eExXyYnNtTfF\r\x85\u2028\ufeffé日🙂"
_texts = st.one_of(
    st.sampled_from(_TRAPS + _MORE_TRAPS),
    st.text(st.sampled_from(_SPICY), max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
_instants = st.datetimes().map(lambda instant: instant.replace(fold=0))

_LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), _texts),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats(allow_nan=False)),
    (
        pa.float32(),
        st.floats(allow_nan=False, allow_subnormal=False, width=32).map(
            lambda x: float(f"{x:.6g}")
        ),
    ),
    (pa.bool_(), st.booleans()),
    (pa.date32(), st.dates()),
    (pa.timestamp("us"), _instants),
    (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(dt.UTC))),
    (pa.binary(), st.binary(max_size=9)),
    (pa.large_string(), _texts),
]
Column = tuple[pa.DataType, st.SearchStrategy[Any]]


def _optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


def _make_list(child: Column) -> Column:
    return pa.list_(child[0]), st.lists(_optional(child[1]), max_size=4)


def _make_map(parts: tuple[Column, Column]) -> Column:
    (key_type, keys), (item_type, items) = parts
    pairs = st.lists(st.tuples(keys, _optional(items)), max_size=4, unique_by=lambda pair: pair[0])
    return pa.map_(key_type, item_type), pairs


def _make_struct(children: dict[str, Column]) -> Column:
    kind = pa.struct([pa.field(name, child[0]) for name, child in children.items()])
    values = {name: _optional(child[1]) for name, child in children.items()}
    return kind, st.fixed_dictionaries(values)


_keys = st.sampled_from([leaf for leaf in _LEAVES if not pa.types.is_floating(leaf[0])])
_columns = st.recursive(
    st.sampled_from(_LEAVES),
    lambda children: st.one_of(
        children.map(_make_list),
        st.tuples(_keys, children).map(_make_map),
        st.dictionaries(_texts, children, min_size=1, max_size=3).map(_make_struct),
    ),
    max_leaves=5,
)


def _prune(value: Any) -> Any:
    """Drop what carries nothing, and turn pairs into a mapping: ``None`` if nothing is left."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        value = dict(value)
    if isinstance(value, dict):
        pruned = {key: _prune(item) for key, item in value.items()}
        return {key: item for key, item in pruned.items() if item is not None} or None
    if isinstance(value, list):
        return [item for item in map(_prune, value) if item is not None] or None
    return value


def _check(columns: dict[str, pa.Array[Any]], rows: list[dict[str, Any]]) -> None:
    texts = render_documents(columns).to_pylist()
    assert len(texts) == len(rows)
    for text, row in zip(texts, rows, strict=True):
        expected = _prune(row)
        assert (text == "") == (expected is None)
        assert yaml.safe_load(str(text)) == expected
        assert yaml.load(str(text), Loader=yaml.CSafeLoader) == expected


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_trees_are_read_back(data: st.DataObject) -> None:
    """Columns of any nesting come back equal, without nulls, blanks and empty containers."""
    columns = data.draw(st.dictionaries(_texts, _columns, min_size=1, max_size=3))
    rows = data.draw(
        st.lists(
            st.fixed_dictionaries({name: _optional(c[1]) for name, c in columns.items()}),
            max_size=4,
        )
    )
    arrays = {
        name: pa.array([row[name] for row in rows], kind) for name, (kind, _) in columns.items()
    }
    _check(arrays, rows)


@given(_texts, _texts)
def test_strings_are_read_back_everywhere(text: str, key: str) -> None:
    """A string survives as a value, a list item, a map's key and item, and nested in lists."""
    row = {
        "value": text,
        "list": [text, "x", text],
        key + "!": [(text, text), (key + "!", key)] if text != key + "!" else [(text, key)],
        "deep": [[{"a": text, "b": [text]}]],
    }
    kinds = {
        "value": pa.string(),
        "list": pa.list_(pa.string()),
        key + "!": pa.map_(pa.string(), pa.string()),
        "deep": pa.list_(pa.list_(pa.struct([("a", pa.string()), ("b", pa.list_(pa.string()))]))),
    }
    _check({name: pa.array([row[name]], kind) for name, kind in kinds.items()}, [row])


@pytest.mark.parametrize("text", _TRAPS + _MORE_TRAPS)
def test_traps_are_read_back(text: str) -> None:
    """Each known trap of YAML's resolver and scanner comes back as the same string."""
    row = {"v": text, "l": [text], "m": [(text, text)]}
    kinds = (pa.string(), pa.list_(pa.string()), pa.map_(pa.string(), pa.string()))
    _check(
        {name: pa.array([row[name]], kind) for name, kind in zip(row, kinds, strict=True)}, [row]
    )
    _check({text: pa.array(["x"])}, [{text: "x"}])


@given(st.lists(_optional(st.lists(_optional(_texts), max_size=3)), max_size=8), st.data())
def test_cutting_a_column_changes_no_text(values: list[Any], data: st.DataObject) -> None:
    """Slices and chunks of a column give the texts that the whole column gives."""
    array = pa.array(values, pa.list_(pa.string()))
    whole = render_documents({"a": array}).to_pylist()
    at = data.draw(st.integers(0, len(values)))
    assert render_documents({"a": array.slice(at)}).to_pylist() == whole[at:]
    chunked = pa.chunked_array([array.slice(0, at), array.slice(at)])
    assert render_documents({"a": chunked}).to_pylist() == whole
