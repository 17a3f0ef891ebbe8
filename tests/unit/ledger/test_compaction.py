"""Compaction under races, faults and crashes: no score is lost, the newest of each pair stays."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import StateError
from rerank_jobs.ledger import compaction
from rerank_jobs.ledger.compaction import compact, merge_all, read_markers
from rerank_jobs.ledger.library import find_scores, read_library
from rerank_jobs.ledger.sorted_scores import merge_sorted, sort_scores, write_scores
from rerank_jobs.storage import LocalStore, Put, read_json, seal_json
from tests.unit.ledger.kit import EPOCH, make_scored, put_segment

SCORER = "a" * 32
DAY = 86_400.0
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def plan_of(number: int) -> str:
    return format(number, "032x")


def run_of(number: int) -> str:
    return f"_all/run/{plan_of(number)}"


def pay(store: LocalStore, number: int, queries: range, **facts: Any) -> None:
    """Put a segment of run ``number``: three pairs of each query, scored by the run's number."""
    outcomes = [
        make_scored(query, score=number / 10, received_at=EPOCH + number * DAY, **facts)
        for query in queries
    ]
    put_segment(store, list(outcomes), folder=f"{run_of(number)}/00000", plan_id=plan_of(number))


def add(store: LocalStore, number: int) -> int:
    return compact(store, SCORER, run_of(number), plan_of(number))


def read_all(store: LocalStore) -> dict[int, float]:
    """Return the newest score of passage 0 of each query, looked up as planning does."""
    sql = find_scores(store, SCORER, LONG_AGO).sql
    if sql is None:
        return {}
    with duckdb.connect() as con:
        paths = [str(store.fetch(file.name)) for file in read_library(store, SCORER).files]
        con.execute(f"""CREATE TABLE sends AS
            SELECT DISTINCT query_key, passage_key FROM read_parquet({paths})""")
        rows: list[Any] = con.execute(
            f"SELECT query_key, passage_key, score FROM ({sql})"
        ).fetchall()
    return {int.from_bytes(row[0], "big"): row[2] for row in rows if row[1] == bytes(16)}


class Hooked(LocalStore):
    """A store that does something before its ``at``-th call, or fails in it."""

    def __init__(self, location: str, at: int, act: Callable[[], object], *, after: bool) -> None:
        super().__init__(location)
        self.calls, self._at, self._act, self._after = 0, at, act, after

    def _call(self, effect: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls != self._at:
            return effect()
        if not self._after:
            self._act()
            return effect()
        result = effect()
        self._act()
        return result

    def put_if_absent(self, name: str, data: bytes) -> Put:
        put: Put = self._call(lambda: super(Hooked, self).put_if_absent(name, data))
        return put

    def put_file_if_absent(self, name: str, source: Path) -> Put:
        put: Put = self._call(lambda: super(Hooked, self).put_file_if_absent(name, source))
        return put

    def read(self, name: str) -> bytes:
        data: bytes = self._call(lambda: super(Hooked, self).read(name))
        return data

    def entries(self, prefix: str = "") -> list[Any]:
        found: list[Any] = self._call(lambda: super(Hooked, self).entries(prefix))
        return found


def prepare(folder: Path) -> LocalStore:
    """Return a store with two files in its library and two runs that are not in it."""
    store = LocalStore(str(folder))
    pay(store, 1, range(8))
    add(store, 1)
    pay(store, 2, range(6, 9))
    add(store, 2)
    pay(store, 3, range(2, 7))
    pay(store, 4, range(5, 12))
    return store


EXPECTED = {
    query: {**dict.fromkeys(range(8), 0.1), **dict.fromkeys(range(6, 9), 0.2)}[query]
    for query in range(9)
}
EXPECTED.update(dict.fromkeys(range(2, 7), 0.3))
EXPECTED.update(dict.fromkeys(range(5, 12), 0.4))


def count_calls(folder: Path) -> int:
    store = Hooked(prepare(folder).location, 0, lambda: None, after=False)
    add(store, 3)
    return store.calls


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many store calls one compaction with a merge makes."""
    return count_calls(tmp_path_factory.mktemp("count"))


@pytest.mark.slow
def test_a_rival_at_any_instant_loses_nothing(calls: int, tmp_path: Path) -> None:
    """Before each store call of a compaction another one runs from start to end: all is there."""
    assert calls > 10
    for at in range(1, calls + 1):
        plain = prepare(tmp_path / str(at))
        rival = functools.partial(add, plain, 4)
        store = Hooked(plain.location, at, rival, after=False)
        add(store, 3)
        assert read_all(plain) == EXPECTED, at
        assert add(plain, 3) == add(plain, 4) == 0


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_failure_at_any_call_is_made_good(calls: int, tmp_path: Path, after: bool) -> None:
    """A store call fails, before or after its effect: a second compaction brings all in."""

    def fail() -> None:
        raise OSError(5, "input/output error")

    for at in range(1, calls + 1):
        plain = prepare(tmp_path / str(at))
        store = Hooked(plain.location, at, fail, after=after)
        with pytest.raises(OSError, match="input/output"):
            add(store, 3)
        add(plain, 3)
        add(plain, 4)
        assert read_all(plain) == EXPECTED, at


def test_threads_that_add_and_merge_lose_nothing(tmp_path: Path) -> None:
    """Eight adders and two mergers at once: every pair's newest score is found, files are few."""
    store = LocalStore(str(tmp_path))
    expected: dict[int, float] = {}
    draw = random.Random(4)
    for number in range(1, 9):
        first = draw.randrange(20)
        queries = range(first, first + draw.randrange(1, 15))
        pay(store, number, queries)
        expected.update(dict.fromkeys(queries, number / 10))
    barrier = threading.Barrier(10)
    failures: list[BaseException] = []

    def work(action: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    actions: list[Callable[[], Any]] = [
        functools.partial(add, store, number) for number in range(1, 9)
    ]
    actions += [lambda: merge_all(store, SCORER)] * 2
    threads = [threading.Thread(target=work, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert read_all(store) == expected
    library = merge_all(store, SCORER)
    assert [file.rows for file in library.files] == [3 * len(expected)]
    assert read_all(store) == expected


def test_merging_keeps_the_newest_and_few_files(tmp_path: Path) -> None:
    """Twenty nights with the same queries lie in a few files, and the last night's score counts."""
    store = LocalStore(str(tmp_path))
    for number in range(1, 21):
        pay(store, number, range(10))
        add(store, number)
        assert len(read_library(store, SCORER).files) <= 2
    assert read_all(store) == dict.fromkeys(range(10), 2.0)


def test_a_marker_names_what_stands_in_the_library(tmp_path: Path) -> None:
    """It is sealed, has segments, scorer and the manifest's number; a damaged one says nothing."""
    store = LocalStore(str(tmp_path))
    pay(store, 1, range(2))
    add(store, 1)
    name = f"{run_of(1)}/compacted/00000001.json"
    document = read_json(store, name)
    assert document["segments"] == [f"{run_of(1)}/00000/seg/00000001-000000.arrow"]
    assert (document["scorer_id"], document["library"], document["ignored"]) == (SCORER, 1, [])
    store.put(name, b"{}")
    assert read_markers(store, run_of(1)) == []
    assert add(store, 1) == 6
    assert len(read_library(store, SCORER).files) == 1


def test_a_torn_segment_is_tried_again_only_when_asked(tmp_path: Path) -> None:
    """Planning does not read it each time; ``again`` does, and finds it once it is restored."""
    store = LocalStore(str(tmp_path))
    pay(store, 1, range(2))
    (name,) = [entry.name for entry in store.entries() if "/seg/" in entry.name]
    whole = store.read(name)
    store.put(name, whole[:-9])
    assert add(store, 1) == 0
    before = store.entries()
    for again in (False, True):
        assert compact(store, SCORER, run_of(1), plan_of(1), again=again) == 0
        assert store.entries() == before
    store.put(name, whole)
    assert add(store, 1) == 0
    assert compact(store, SCORER, run_of(1), plan_of(1), again=True) == 6
    assert read_all(store) == dict.fromkeys(range(2), 0.1)


def test_a_new_library_does_not_trust_markers_of_an_old_one(tmp_path: Path) -> None:
    """Whoever removes a library gets its scores back from the segments."""
    store = LocalStore(str(tmp_path))
    for number in (1, 2):
        pay(store, number, range(number, number + 3))
        add(store, number)
    for entry in store.entries(f"library/{SCORER}"):
        store.delete(entry.name)
    for number in (1, 2):
        assert add(store, number) == 9
    assert set(read_all(store)) == {1, 2, 3, 4}


def test_a_library_of_version_1_is_read_and_carried_on(tmp_path: Path) -> None:
    """Its manifest names segments, its files have no parts: nothing is added twice or lost."""
    store = LocalStore(str(tmp_path))
    pay(store, 1, range(8))
    add(store, 1)
    (file,) = read_library(store, SCORER).files
    old = pq.read_table(store.fetch(file.name)).drop_columns(["parts"])
    for entry in store.entries():
        if "/seg/" not in entry.name:
            store.delete(entry.name)
    path = tmp_path / "old.parquet"
    pq.write_table(old, path)
    made = compaction.put_scores(store, SCORER, path)
    segments = [entry.name for entry in store.entries("_all") if "/seg/" in entry.name]
    item = {
        "name": made.name,
        "sha256": made.sha256,
        "size": made.size,
        "rows": made.rows,
        "segments": segments,
    }
    document = {"contract": "library", "version": 1, "number": 1, "files": [item]}
    store.put_if_absent(f"library/{SCORER}/manifest/{1:020d}.json", seal_json(document))
    assert read_all(store) == dict.fromkeys(range(8), 0.1)
    pay(store, 2, range(6, 9))
    assert add(store, 2) == 9
    assert add(store, 1) == 0
    assert "segments" not in read_json(store, store.entries(f"library/{SCORER}/manifest")[-1].name)
    assert merge_all(store, SCORER).files[0].rows == 27
    assert read_all(store) == {**dict.fromkeys(range(6), 0.1), **dict.fromkeys(range(6, 9), 0.2)}


def test_a_file_that_goes_while_it_is_looked_for_is_found_under_its_new_name(
    tmp_path: Path,
) -> None:
    """Between manifest and file a merge and a clean-up may come: the newest manifest is taken."""
    plain = prepare(tmp_path)
    gone: list[str] = []

    def clean_up() -> None:
        before = {file.name for file in read_library(plain, SCORER).files}
        library = merge_all(plain, SCORER)
        gone.extend(before - {file.name for file in library.files})
        for name in gone:
            plain.delete(name)

    store = Hooked(plain.location, 2, clean_up, after=True)  # after the manifest was read
    assert find_scores(store, SCORER, LONG_AGO).sql is not None
    assert len(gone) == 2


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    """A file whose bytes differ is not looked up in: a wrong score would pass for a paid one."""
    store = LocalStore(str(tmp_path))
    pay(store, 1, range(8))
    add(store, 1)
    (file,) = read_library(store, SCORER).files
    data = bytearray(store.read(file.name))
    data[len(data) // 2] ^= 1
    store.put(file.name, bytes(data))
    with pytest.raises(StateError, match=r"is damaged: restore it, or remove library/.*compact"):
        find_scores(store, SCORER, LONG_AGO)


def test_damage_in_the_library_does_not_stop_what_is_paid(tmp_path: Path) -> None:
    """New scores go in although an old file cannot be merged; planning tells of the damage."""
    store = LocalStore(str(tmp_path))
    pay(store, 1, range(8))
    add(store, 1)
    (file,) = read_library(store, SCORER).files
    store.put(file.name, store.read(file.name)[:-1])
    pay(store, 2, range(8, 16))
    assert add(store, 2) == 24
    assert len(read_library(store, SCORER).files) == 2
    with pytest.raises(StateError, match="is damaged"):
        merge_all(store, SCORER)


ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5), st.sampled_from([1, 3, 1000]))
def test_a_merge_is_the_newest_of_each_pair_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[list[tuple[int, int, int, int]]],
    block: int,
) -> None:
    """Whatever the files hold and however they are cut, the merge is what a dictionary gives."""
    folder = tmp_path_factory.mktemp("merge")
    best: dict[tuple[int, int], tuple[int, int]] = {}
    paths = []
    for number, rows in enumerate(runs):
        for query, passage, day, score in rows:
            best[query, passage] = max(best.get((query, passage), (-1, -1)), (day, score))
        path = folder / f"{number}.parquet"
        write_scores(path, iter([sort_scores(make_scores(rows))]))
        paths.append(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rerank_jobs.ledger.sorted_scores.READ_ROWS", block)
        count = merge_sorted(paths, folder / "merged.parquet")
    table = pq.read_table(folder / "merged.parquet")
    expected = [(*pair, *best[pair]) for pair in sorted(best)]
    assert count == len(expected)
    assert table.equals(make_scores(expected))


def make_scores(rows: list[tuple[int, int, int, int]]) -> pa.Table:
    """Return scores of (query, passage, day, score); keys end in zeros, where strings are cut."""
    names = ("query_key", "passage_key")
    keys = {
        name: [row[index].to_bytes(2, "big") + bytes(14) for row in rows]
        for index, name in enumerate(names)
    }
    instants = [datetime.fromtimestamp(EPOCH + row[2] * DAY, UTC) for row in rows]
    columns = {
        **keys,
        "score": [float(row[3]) for row in rows],
        "model": ["m"] * len(rows),
        "provider": [None] * len(rows),
        "received_at": instants,
        "parts": [None] * len(rows),
    }
    return pa.table(columns, schema=arrow_schema("library"))
