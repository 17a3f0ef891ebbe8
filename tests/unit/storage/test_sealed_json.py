"""JSON objects that carry their own checksum: no damage is ever read as a value."""

from __future__ import annotations

import itertools
from pathlib import Path

import orjson
import pytest

from rerank_jobs.errors import StateError
from rerank_jobs.storage import LocalStore, read_json, seal_json

VALUE = {"number": 7, "usd": 0.1, "names": ["a", "ä"], "none": None, "nested": {"b": True}}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def is_refused(store: LocalStore, data: bytes) -> bool:
    store.put("object", data)
    try:
        read_json(store, "object")
    except StateError:
        return True
    return False


def test_what_was_sealed_is_read_back(store: LocalStore) -> None:
    """Sealing keeps the value; its keys are sorted, so equal values have equal bytes."""
    store.put("object", seal_json(VALUE))
    found = read_json(store, "object")
    assert {key: found[key] for key in VALUE} == VALUE
    assert seal_json(dict(reversed(VALUE.items()))) == seal_json(VALUE) == seal_json(found)


def test_every_single_flipped_byte_is_detected(store: LocalStore) -> None:
    """Each bit of each byte, and the byte's complement, flipped: none is read as valid."""
    data = seal_json(VALUE)
    flips = [1 << bit for bit in range(8)] + [0xFF]
    survived = [
        (place, flip)
        for place, flip in itertools.product(range(len(data)), flips)
        if not is_refused(store, data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
    ]
    assert survived == []


def test_every_truncation_is_detected(store: LocalStore) -> None:
    """An object cut at any byte is refused, and so is one with zeros from there on."""
    data = seal_json(VALUE)
    for length in range(len(data)):
        assert is_refused(store, data[:length])
        assert is_refused(store, data[:length] + bytes(len(data) - length))


@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"1", b"{}", b'{"sha256": 1}'])
def test_json_that_is_not_ours_is_refused(store: LocalStore, data: bytes) -> None:
    """Valid JSON without a fitting checksum is damage, not a value."""
    assert is_refused(store, data)


def test_a_changed_value_under_the_old_checksum_is_refused(store: LocalStore) -> None:
    """Whoever edits an object by hand is told so."""
    value = orjson.loads(seal_json(VALUE))
    value["number"] = 8
    assert is_refused(store, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def test_a_missing_object_is_not_damage(store: LocalStore) -> None:
    """Nothing there is told apart from something damaged."""
    with pytest.raises(FileNotFoundError):
        read_json(store, "object")
