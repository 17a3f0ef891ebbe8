"""The tools of this folder: a fault is what its name says, and a store in memory is a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank_jobs.storage import LocalStore, Put, Store
from tests.faults.faulty_store import Call, Fault, FaultyStore, Injector, faults_of
from tests.faults.memory_store import MemoryStore


def break_call(inner: Store, number: int, fault: Fault) -> FaultyStore:
    """Return a store whose n-th call meets a fault."""
    return FaultyStore(inner, Injector({number: fault}))


@pytest.fixture(params=["local", "memory"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return a store of either kind."""
    if request.param == "local":
        return LocalStore(str(tmp_path / "store"))
    (tmp_path / "files").mkdir()
    return MemoryStore(str(tmp_path / "store"), tmp_path / "files", lambda: 0.0)


@pytest.mark.parametrize("fault", [Fault.IO, Fault.FULL, Fault.DENIED, Fault.TIMEOUT])
def test_a_fault_before_effect_leaves_nothing(inner: Store, fault: Fault) -> None:
    """The call fails with an error of the disk that names the object, and nothing is there."""
    store = break_call(inner, 0, fault)
    with pytest.raises(OSError, match="store/a/b"):
        store.put_if_absent("a/b", b"x")
    assert not store.exists("a/b")
    assert store.put_if_absent("a/b", b"x") is Put.CREATED


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.LATE_TIMEOUT])
def test_a_fault_after_effect_leaves_the_effect(inner: Store, fault: Fault) -> None:
    """The call fails although the object stands there, or is gone."""
    store = break_call(inner, 0, fault)
    with pytest.raises(OSError, match="store/a/b"):
        store.put_if_absent("a/b", b"x")
    assert store.read("a/b") == b"x"
    with pytest.raises(OSError, match="store/a/b"):
        break_call(inner, 0, fault).delete("a/b")
    assert not inner.exists("a/b")


def test_a_torn_put_leaves_half(inner: Store) -> None:
    """Half of a beat's bytes are there, and the call fails."""
    with pytest.raises(OSError, match="store/beat"):
        break_call(inner, 0, Fault.TORN).put("beat", b"abcd")
    assert inner.read("beat") == b"ab"


def test_others_act_while_a_process_stands_still(inner: Store) -> None:
    """What others do meanwhile is done before the call, and is neither numbered nor broken."""
    injector = Injector({0: Fault.STALL, 1: Fault.IO})
    store = FaultyStore(inner, injector)
    injector.stall = lambda: print(store.put_if_absent("a", b"theirs"))
    assert store.put_if_absent("a", b"ours") is Put.OTHER
    assert injector.calls == [Call("put_if_absent", "store", "a")]
    with pytest.raises(OSError, match="store/a"):
        store.read("a")


def test_every_kind_of_fault_is_one_of_some_call() -> None:
    """No fault is left out by the calls that may meet it."""
    methods = ("put", "put_if_absent", "put_file_if_absent", "replace", "delete", "read", "entries")
    met = {fault for method in methods for fault in faults_of(Call(method, "s", "n"))}
    assert met == set(Fault)


def test_stores_of_both_kinds_answer_alike(inner: Store, tmp_path: Path) -> None:
    """Creating, comparing, listing, fetching and removing have the outcomes of the protocol."""
    source = tmp_path / "source"
    source.write_bytes(b"file")
    assert inner.put_file_if_absent("f/one", source) is Put.CREATED
    assert inner.put_file_if_absent("f/one", source) is Put.SAME
    assert inner.put_if_absent("f/one", b"other") is Put.OTHER
    inner.replace("f/two", b"2")
    inner.put("g", b"3")
    assert [(entry.name, entry.size) for entry in inner.entries("f")] == [
        ("f/one", 4),
        ("f/two", 1),
    ]
    assert [entry.name for entry in inner.entries()] == ["f/one", "f/two", "g"]
    assert inner.fetch("f/one").read_bytes() == b"file"
    inner.delete("f/one")
    inner.delete("f/one")
    for method in (inner.read, inner.fetch):
        with pytest.raises(FileNotFoundError):
            method("f/one")
    assert inner.leftovers(0) == []
