"""The exact form of rendered documents."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rerank_jobs.errors import InputError
from rerank_jobs.tables.rendering import RENDERING_VERSION, render_documents

MAP = pa.map_(pa.string(), pa.string())


def _render(value: Any, kind: pa.DataType) -> str:
    (text,) = render_documents({"c": pa.array([value], kind)}).to_pylist()
    return str(text)


def test_form_of_version_1() -> None:
    """Version 1 means exactly this text: keys depend on it, another form is another version."""
    texts = render_documents(
        {
            "title": pa.array(["Trail shoe: light"]),
            "text": pa.array(["First line\n  second, with 'quotes' & \"more\"\n"]),
            "attributes": pa.array(
                [[("size", "42"), ("colour", "dark blue"), ("sale", "no")]], MAP
            ),
            "price": pa.array([Decimal("12.50")]),
            "offers": pa.array([[{"shop": "A", "days": [1, 2]}, {"shop": None, "days": [3]}]]),
        }
    )
    assert RENDERING_VERSION == 1
    assert texts.to_pylist() == [
        """\
title: "Trail shoe: light"
text: |2
  First line
    second, with 'quotes' & "more"
attributes:
  size: "42"
  colour: dark blue
  sale: "no"
price: 12.50
offers:
  - shop: A
    days:
      - 1
      - 2
  - days:
      - 3
"""
    ]


def test_what_carries_nothing_is_left_out() -> None:
    """Nulls, blank strings and empty containers leave no trace; an empty row is an empty text."""
    texts = render_documents(
        {
            "title": pa.array(["x", " \n", None]),
            "tags": pa.array([["", "a", None], [None], []], pa.list_(pa.string())),
            "attributes": pa.array([[("a", None), ("b", "")], [], None], MAP),
        }
    )
    assert texts.to_pylist() == ["title: x\ntags:\n  - a\n", "", ""]


def test_order_of_columns_is_the_callers() -> None:
    """The most important column comes first because the caller names it first."""
    columns = {"b": pa.array(["1st"]), "a": pa.array(["2nd"])}
    assert render_documents(columns).to_pylist() == ["b: 1st\na: 2nd\n"]


@pytest.mark.parametrize(
    "text",
    [
        "word",
        "Größe 42",
        "日本語です",
        "a:b",
        "a#b",
        "it's",
        'say "x"',
        "3 mm",
        "T-Bar",
        "x" * 9000,
        "(a) [b] {c}, d & e",
        "v1.2.3",
        "100%",
        "🙂 ok",
        "a\u00a0b",
        "/usr/bin",
        "$5",
        "note - x",
    ],
)
def test_ordinary_strings_stand_plain(text: str) -> None:
    """Text that YAML reads back as it is gets no quotes, no escapes and no folds."""
    assert _render(text, pa.string()) == f"c: {text}\n"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("yes", '"yes"'),
        ("1e3", '"1e3"'),
        ("2026-01-01", '"2026-01-01"'),
        ("a: b", '"a: b"'),
        ("- a", '"- a"'),
        ("C:\\x: y", '"C:\\\\x: y"'),
        ("tab\there", '"tab\\there"'),
        ("a\r\nb", '"a\\r\\nb"'),
        ("\ufeffa\x00\x85\u2028", '"\\ufeffa\\x00\\N\\L"'),
        ("über: naïve", '"über: naïve"'),
    ],
)
def test_other_strings_are_quoted_on_one_line(text: str, rendered: str) -> None:
    """Strings that YAML would read otherwise are double-quoted; only what must be is escaped."""
    assert _render(text, pa.string()) == f"c: {rendered}\n"


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("a\nb", "|2-\n  a\n  b"),
        ("a\nb\n", "|2\n  a\n  b"),
        ("a\n\n", "|2+\n  a\n  "),
        ("  a\nb", "|2-\n    a\n  b"),
    ],
)
def test_lines_stay_lines(text: str, rendered: str) -> None:
    """Text of several lines is a literal block, so that a model sees words and not escapes."""
    assert _render(text, pa.string()) == f"c: {rendered}\n"


@pytest.mark.parametrize(
    ("value", "kind", "rendered"),
    [
        (True, pa.bool_(), "true"),
        (-5, pa.int8(), "-5"),
        (0.1, pa.float32(), "0.1"),
        (1.5, pa.float16(), "1.5"),
        (1e16, pa.float64(), "1.0e+16"),
        (1e-7, pa.float64(), "1.0e-07"),
        (float("inf"), pa.float64(), ".inf"),
        (float("-inf"), pa.float32(), "-.inf"),
        (float("nan"), pa.float64(), ".nan"),
        (Decimal("1E+3"), pa.decimal128(9, 2), "1000.00"),
        (Decimal("1.5"), pa.decimal32(5, 2), "1.50"),
        (dt.date(2026, 1, 2), pa.date32(), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, 4), pa.timestamp("ns"), "2026-01-02T03:04:00"),  # noqa: DTZ001
        (dt.time(3, 4), pa.time64("ns"), '"03:04:00"'),
        (dt.timedelta(days=2), pa.duration("ns"), "2 days, 0:00:00"),
        (b"ab", pa.binary(), '!!binary "YWI="'),
        (b"ab", pa.binary(2), '!!binary "YWI="'),
        ("a", pa.dictionary(pa.int8(), pa.string()), "a"),
        ("a", pa.string_view(), "a"),
        ([1, 2], pa.list_(pa.int8(), 2), "\n  - 1\n  - 2"),
        ([1], pa.large_list(pa.int8()), "\n  - 1"),
        ([[(1, "a")]], pa.list_(pa.map_(pa.int8(), pa.string())), "\n  - 1: a"),
        ([(dt.date(2026, 1, 2), True)], pa.map_(pa.date32(), pa.bool_()), "\n  2026-01-02: true"),
    ],
)
def test_types(value: object, kind: pa.DataType, rendered: str) -> None:
    """Each Arrow type has one short form."""
    separator = "" if rendered.startswith("\n") else " "
    assert _render(value, kind) == f"c:{separator}{rendered}\n"


def test_instants_are_written_in_utc() -> None:
    """A zoned timestamp does not depend on the zone's rules of the machine that renders it."""
    instant = dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC)
    assert _render(instant, pa.timestamp("us", "Europe/Berlin")) == "c: 2026-07-01T12:00:00+00:00\n"


def test_long_keys_stand_alone() -> None:
    """A key longer than YAML readers search for a colon is marked as one."""
    key = "k" * 600
    assert _render([(key, "v")], MAP) == f"c:\n  ? {key}\n  : v\n"


def test_encodings_and_nulls_do_not_change_texts() -> None:
    """Dictionary, run-end and fixed-size encodings give the texts of the plain arrays."""
    words = pa.array(["a", "a", None, "yes"])
    expected = ["c: a\n", "c: a\n", "", 'c: "yes"\n']
    for array in (words, words.dictionary_encode(), pc.call_function("run_end_encode", [words])):
        assert render_documents({"c": array}).to_pylist() == expected
    pairs = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2))
    expected = ["c:\n  - 1\n  - 2\n", "", "c:\n  - 3\n"]
    assert render_documents({"c": pairs}).to_pylist() == expected
    assert render_documents({"c": pairs.slice(1)}).to_pylist() == expected[1:]


def test_no_rows() -> None:
    """Empty columns of any type give no documents."""
    for kind in (pa.string(), MAP, pa.list_(pa.string()), pa.struct([("a", pa.int8())])):
        assert len(render_documents({"c": pa.array([], kind)})) == 0
        assert len(render_documents({"c": pa.chunked_array([pa.array([], kind)])})) == 0
    assert render_documents({"c": pa.nulls(2)}).to_pylist() == ["", ""]


def test_broken_text_is_refused_without_showing_it() -> None:
    """Text that is not UTF-8 names its column, and the error carries nothing of the text."""
    offsets, data = pa.py_buffer(b"\0\0\0\0\7\0\0\0"), pa.py_buffer(b"secret\xff")
    array = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    with pytest.raises(InputError, match=r"column body .*UTF-8") as caught:
        render_documents({"body": array})
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "array",
    [
        pa.array([2**55], pa.timestamp("ms")),
        pa.array([[({"a": 1}, "x")]], pa.map_(pa.struct([("a", pa.int8())]), pa.string())),
        pa.array([[1]], pa.list_view(pa.int8())),
    ],
)
def test_what_cannot_be_rendered_is_an_input_error(array: pa.Array[Any]) -> None:
    """Dates beyond the calendar, maps keyed by structs and exotic types name their column."""
    with pytest.raises(InputError, match="column c "):
        render_documents({"c": array})


def test_columns_must_be_alike_in_length() -> None:
    """Columns of different length are a mistake of the caller."""
    with pytest.raises(ValueError, match="same length"):
        render_documents({"a": pa.array(["x"]), "b": pa.array(["x", "y"])})
