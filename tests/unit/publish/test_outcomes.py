"""A commit's three outcomes are told apart whatever the store does, and nothing goes unproven."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import CommitUnknown, RerankJobsError
from rerank_jobs.publish.generations import (
    Generation,
    Superseded,
    commit,
    manifest_name,
    read_current,
    read_generations,
)
from rerank_jobs.publish.publisher import Roots, publish_plan, restore_generation
from rerank_jobs.storage import LocalStore, Put, seal_json
from tests.unit.publish.kit import FOLDER, PARTITION, make_order, publishing_job

PLAN_A, PLAN_B = "a" * 32, "b" * 32
DOCUMENT: dict[str, Any] = {"plan_id": PLAN_A, "parts": [], "rejected": [], "write_id": "ours"}
THEIRS = seal_json({**DOCUMENT, "write_id": "theirs", "generation": 1, "previous": 0})


class Failure(OSError):
    """What a store raises whose disk or network fails."""


class AtCommit(LocalStore):
    """A store whose put and read-back of a manifest do what a case says."""

    def __init__(self, location: str, putting: str, looking: str) -> None:
        super().__init__(location)
        self._putting, self._looking = putting, looking

    def put_if_absent(self, name: str, data: bytes) -> Put:
        if self._putting == "fails before":
            raise Failure
        put = super().put_if_absent(name, data)
        if self._putting == "fails after":
            raise Failure
        return put

    def read(self, name: str) -> bytes:
        if self._looking == "fails":
            raise Failure
        return super().read(name)


@pytest.mark.parametrize(
    ("there", "put", "look", "outcome"),
    [
        ("nothing", "answers", "answers", Generation),
        ("nothing", "answers", "fails", Generation),
        ("nothing", "fails after", "answers", Generation),
        ("nothing", "fails after", "fails", CommitUnknown),
        ("nothing", "fails before", "answers", CommitUnknown),
        ("nothing", "fails before", "fails", CommitUnknown),
        ("theirs", "answers", "answers", Superseded),
        ("theirs", "answers", "fails", Superseded),
        ("theirs", "fails after", "answers", Superseded),
        ("theirs", "fails after", "fails", CommitUnknown),
        ("theirs", "fails before", "answers", Superseded),
        ("theirs", "fails before", "fails", CommitUnknown),
    ],
)
def test_each_failure_has_its_outcome(
    tmp_path: Path, there: str, put: str, look: str, outcome: type
) -> None:
    """Landed only with our bytes there, superseded only with others', else unknown."""
    name = manifest_name(PARTITION, 1)
    if there == "theirs":
        LocalStore(str(tmp_path)).put_if_absent(name, THEIRS)
    store = AtCommit(str(tmp_path), put, look)
    try:
        found: object = commit(store, PARTITION, 0, DOCUMENT)
    except (Superseded, CommitUnknown) as error:
        found = error
    assert isinstance(found, outcome)
    stored = LocalStore(str(tmp_path))
    if isinstance(found, Generation):
        assert stored.read(name) == seal_json(found.document)
        assert b"ours" in stored.read(name)
    if isinstance(found, Superseded):
        assert stored.read(name) == THEIRS


def test_one_commit_made_twice_lands_once(tmp_path: Path) -> None:
    """Who tries again with the same document finds its own success; with another one, not."""
    store = LocalStore(str(tmp_path))
    first = commit(store, PARTITION, 0, DOCUMENT)
    assert commit(store, PARTITION, 0, DOCUMENT) == first
    with pytest.raises(Superseded):
        commit(store, PARTITION, 0, {**DOCUMENT, "write_id": "another try"})


# Every store call of a publishing, failed once.


class Faulty(LocalStore):
    """A store that fails at one call of all that several stores count together."""

    def __init__(self, location: str, counter: Iterator[int], at: int, *, after: bool) -> None:
        super().__init__(location)
        self._counter, self._at, self._after = counter, at, after

    def _do(self, call: Callable[[], Any]) -> Any:
        hit = next(self._counter) == self._at
        if hit and not self._after:
            raise Failure
        found = call()
        if hit:
            raise Failure
        return found

    def put_if_absent(self, name: str, data: bytes) -> Put:
        put: Put = self._do(lambda: LocalStore.put_if_absent(self, name, data))
        return put

    def put_file_if_absent(self, name: str, source: Path) -> Put:
        put: Put = self._do(lambda: LocalStore.put_file_if_absent(self, name, source))
        return put

    def read(self, name: str) -> bytes:
        data: bytes = self._do(lambda: LocalStore.read(self, name))
        return data

    def exists(self, name: str) -> bool:
        return bool(self._do(lambda: LocalStore.exists(self, name)))

    def entries(self, prefix: str = "") -> list[Any]:
        found: list[Any] = self._do(lambda: LocalStore.entries(self, prefix))
        return found

    def delete(self, name: str) -> None:
        self._do(lambda: LocalStore.delete(self, name))

    def fetch(self, name: str) -> Path:
        path: Path = self._do(lambda: LocalStore.fetch(self, name))
        return path


def faulty_roots(folder: Path, at: int, *, after: bool) -> tuple[Roots, list[int]]:
    """Return roots that fail at call ``at``, and the list of calls made so far."""
    calls: list[int] = []

    def count() -> Iterator[int]:
        while True:
            calls.append(len(calls))
            yield calls[-1]

    counter = count()
    names = ("out", "out.rejected", "state")
    stores = (Faulty(str(folder / name), counter, at, after=after) for name in names)
    return Roots(*stores), calls


def read_whole(roots: Roots) -> tuple[int, dict[str, bytes]]:
    """Return the current generation's number and files, as a reader by manifest gets them."""
    current = read_current(roots.state, PARTITION)
    assert current is not None
    return current.number, {part.name: roots.output.read(part.name) for part in current.parts}


def attempt(folder: Path, job: Job, act: str, at: int, *, after: bool) -> int:
    """Publish or go back with one failing call; check that nothing is lost; return all calls."""
    good, _ = faulty_roots(folder, -1, after=False)
    order = make_order(good, PLAN_B, b"new", b"same")
    if act == "publish":
        publish_plan(job, good, make_order(good, PLAN_A, b"old", b"same"))
        before = {b"old", b"same"}
    else:
        publish_plan(job, good, make_order(good, PLAN_B, b"new", b"same"))
        publish_plan(job, good, make_order(good, PLAN_A, b"old", b"same"))
        before = {b"old", b"same"}
    standing = read_whole(good)[0]

    def do(roots: Roots) -> Generation:
        if act == "publish":
            return publish_plan(job, roots, order)
        return restore_generation(job, roots, PARTITION, 1)

    bad, calls = faulty_roots(folder, at, after=after)
    try:
        done: Generation | None = do(bad)
    except (Failure, RerankJobsError):
        done = None
    number, files = read_whole(good)
    assert number in {standing, standing + 1}
    assert set(files.values()) == (before if number == standing else {b"new", b"same"})
    if done is not None:
        assert done.number == number == standing + 1
    assert do(good).number == standing + 1
    assert read_whole(good)[0] == standing + 1
    assert len(read_generations(good.state, PARTITION)) == standing + 1
    assert sorted(e.name for e in good.output.entries(FOLDER)) == sorted(read_whole(good)[1])
    return len(calls)


@pytest.mark.parametrize("act", ["publish", "go back"])
@pytest.mark.parametrize("after", [False, True], ids=["before effect", "after effect"])
def test_a_failure_at_any_call_loses_nothing_and_a_second_try_settles_it(
    tmp_path: Path, act: str, *, after: bool
) -> None:
    """Whatever call fails, the old table or the new one is whole; the next try ends the same."""
    job = publishing_job(tmp_path)
    calls = attempt(tmp_path / "calm", job, act, -1, after=after)
    assert calls >= 20
    for at in range(calls):
        attempt(tmp_path / str(at), job, act, at, after=after)
