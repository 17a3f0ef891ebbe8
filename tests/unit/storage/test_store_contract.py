"""What every kind of store promises, held against a folder, a memory store and S3 over HTTP."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from rerank_jobs.storage import Put, Store, open_store

RACERS = 8
KINDS = ("local", "memory", "s3")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "root"))
    if request.param == "memory":
        return open_store(f"memory://{uuid4().hex}/root")
    return open_store(request.getfixturevalue("bucket") + "/root")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_put_tells_created_same_and_other_apart(store: Store) -> None:
    """The first put creates, equal bytes are the same, others never change what stands there."""
    assert store.put_if_absent("a/b", b"one") is Put.CREATED
    assert store.put_if_absent("a/b", b"one") is Put.SAME
    assert store.put_if_absent("a/b", b"two") is Put.OTHER
    assert store.put_if_absent("a/b", b"longer") is Put.OTHER
    assert store.read("a/b") == b"one"


def test_an_empty_object_is_an_object(store: Store, tmp_path: Path) -> None:
    """No bytes are bytes: created once, found, listed, the same as an empty file."""
    assert store.put_if_absent("empty", b"") is Put.CREATED
    assert store.put_file_if_absent("empty", write(tmp_path / "source", b"")) is Put.SAME
    assert (store.exists("empty"), store.read("empty")) == (True, b"")
    assert store.fetch("empty").read_bytes() == b""
    assert [(entry.name, entry.size) for entry in store.entries()] == [("empty", 0)]


def test_a_file_is_put_like_bytes_and_keeps_its_place(store: Store, tmp_path: Path) -> None:
    """A file tells the same three outcomes, also where two files have one size; it stays."""
    one, two = write(tmp_path / "one", b"one"), write(tmp_path / "two", b"two")
    assert store.put_file_if_absent("a/b", one) is Put.CREATED
    assert store.put_file_if_absent("a/b", one) is Put.SAME
    assert store.put_file_if_absent("a/b", two) is Put.OTHER
    assert store.put_file_if_absent("a/b", write(tmp_path / "six", b"longer")) is Put.OTHER
    assert (store.read("a/b"), one.read_bytes()) == (b"one", b"one")


@pytest.mark.slow
def test_a_file_of_several_blocks_is_compared_and_fetched_whole(
    store: Store, tmp_path: Path
) -> None:
    """A block and a bit come back as they went, and a changed last byte is another file."""
    data = os.urandom(1 << 20) * 17 + b"end"
    source = write(tmp_path / "source", data)
    assert store.put_file_if_absent("large", source) is Put.CREATED
    assert store.put_file_if_absent("large", source) is Put.SAME
    assert store.fetch("large").read_bytes() == data
    other = write(tmp_path / "other", data[:-1] + b"D")
    assert store.put_file_if_absent("large", other) is Put.OTHER


def test_what_is_not_there_is_told(store: Store) -> None:
    """Reading and fetching raise ``FileNotFoundError``, deleting does nothing, no listing fails."""
    for read in (store.read, store.fetch):
        with pytest.raises(FileNotFoundError):
            read("no/thing")
    assert not store.exists("no/thing")
    store.delete("no/thing")
    assert store.entries("no") == store.entries() == []


def test_a_folder_is_no_object(store: Store) -> None:
    """The folder of an object does not exist as one, and is not read."""
    store.put_if_absent("folder/name", b"1")
    assert not store.exists("folder")
    with pytest.raises(OSError, match="folder"):
        store.read("folder")


def test_a_listing_is_of_a_folder_and_sorted_by_name(store: Store) -> None:
    """Names are relative to the store, sorted, and a prefix is a folder, not a string.

    Each has its size and when it was put, by a clock that may tick in whole seconds.
    """
    begun = time.time()
    names = ("b/2", "a", "b/10", "b/c/1", "bc/1", "b-", "B/1")
    for name in names:
        store.put_if_absent(name, name.encode())
    found = store.entries()
    assert [(entry.name, entry.size) for entry in found] == [(n, len(n)) for n in sorted(names)]
    assert all(begun - 1.1 <= entry.modified <= time.time() + 1 for entry in found)
    assert [entry.name for entry in store.entries("b")] == ["b/10", "b/2", "b/c/1"]
    assert [entry.name for entry in store.entries("b/c")] == ["b/c/1"]


@pytest.mark.slow
def test_more_objects_than_one_page_are_all_listed(store: Store) -> None:
    """A listing comes back whole: S3 gives at most 1,000 names at a time."""
    names = [f"many/{number:04d}" for number in range(1_100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert [entry.name for entry in store.entries("many")] == names


def test_every_name_of_a_partition_key_comes_back_as_it_went(store: Store) -> None:
    """The characters of keys and templates survive naming, listing and reading."""
    name = "eu|ds=2026-11-22/A-Za_z.0|=/part-00000-0123abcd.parquet"
    store.put_if_absent(name, b"1")
    assert [entry.name for entry in store.entries("eu|ds=2026-11-22")] == [name]
    assert store.read(name) == store.fetch(name).read_bytes() == b"1"


@pytest.mark.parametrize("method", ["put", "replace"])
def test_overwriting_replaces_what_was_there(store: Store, method: str) -> None:
    """``put`` and ``replace`` leave the new bytes, and nothing beside the object."""
    overwrite: Callable[[str, bytes], None] = getattr(store, method)
    overwrite("new/beat", b"one")
    overwrite("new/beat", b"three")
    assert store.read("new/beat") == store.fetch("new/beat").read_bytes() == b"three"
    assert [entry.name for entry in store.entries()] == ["new/beat"]
    assert store.leftovers(0) == []


def test_what_was_deleted_can_be_created_again(store: Store) -> None:
    """Afterwards the object is gone from every view, and a new creator wins."""
    store.put_if_absent("a/b", b"one")
    store.delete("a/b")
    assert (store.exists("a/b"), store.entries()) == (False, [])
    assert store.put_if_absent("a/b", b"two") is Put.CREATED


def test_a_store_survives_pickling(store: Store) -> None:
    """A copy in another process reads what this one wrote."""
    store.put_if_absent("name", b"data")
    assert pickle.loads(pickle.dumps(store)).read("name") == b"data"  # noqa: S301 - our own bytes


def test_stores_of_one_place_do_not_see_each_other(store: Store) -> None:
    """Locations that begin with the same letters are apart, and a parent sees its child."""
    store.put_if_absent("name", b"1")
    assert open_store(f"{store.location}.state").entries() == []
    parent, _, folder = store.location.rpartition("/")
    assert [entry.name for entry in open_store(parent).entries(folder)] == [f"{folder}/name"]


@pytest.mark.parametrize(
    "rounds", [pytest.param(5, id="fast"), pytest.param(200, marks=pytest.mark.slow, id="slow")]
)
def test_of_racing_creators_exactly_one_wins(store: Store, rounds: int) -> None:
    """In every round of 8 racing threads one creates, 7 are told OTHER, and its bytes stand."""
    barrier = threading.Barrier(RACERS)

    def race(number: int) -> list[Put]:
        outcomes = []
        for turn in range(rounds):
            barrier.wait()
            outcomes.append(store.put_if_absent(f"race/{turn}", str(number).encode()))
        return outcomes

    with ThreadPoolExecutor(RACERS) as pool:
        outcomes = list(pool.map(race, range(RACERS)))
    for turn in range(rounds):
        winners = [number for number in range(RACERS) if outcomes[number][turn] is Put.CREATED]
        losers = [number for number in range(RACERS) if outcomes[number][turn] is Put.OTHER]
        assert (len(winners), len(losers)) == (1, RACERS - 1)
        assert store.read(f"race/{turn}") == str(winners[0]).encode()
