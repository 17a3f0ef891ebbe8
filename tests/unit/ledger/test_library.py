"""The score library: what was paid enters once, and is found under its own scorer alone."""

from __future__ import annotations

import threading
from dataclasses import astuple, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.compaction import compact, read_markers
from rerank_jobs.ledger.library import lookup_sql, read_library
from rerank_jobs.storage import LocalStore, read_json
from tests.unit.ledger.kit import (
    CANARY,
    EPOCH,
    PLAN,
    make_failed,
    make_request,
    make_scored,
    put_segment,
)

SCORER = "a" * 32
RUN = f"_all/run/{PLAN}"
OTHER_PLAN = "f" * 32
OTHER_RUN = f"_all/run/{OTHER_PLAN}"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def look_up(
    store: LocalStore, queries: int = 10, *, scorer: str = SCORER, cutoff: datetime = LONG_AGO
) -> dict[int, tuple[float, str]]:
    """Return (score, model) of passage 0 of the queries that the library has."""
    sql = lookup_sql(store, read_library(store, scorer), cutoff)
    if sql is None:
        return {}
    sends = pa.table(
        {
            "query_key": [make_request(number).query_key for number in range(queries)],
            "passage_key": [bytes(16)] * queries,
        },
        schema=pa.schema([("query_key", pa.binary()), ("passage_key", pa.binary())]),
    )
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'Asia/Tokyo'")
        con.register("sends", sends)
        names = "query_key, passage_key, score, model"
        rows: list[Any] = con.execute(f"SELECT {names} FROM ({sql})").fetchall()
    found = {int.from_bytes(row[0], "big"): (row[2], row[3]) for row in rows}
    assert len(found) == len(rows)
    return found


def manifests(store: LocalStore) -> list[str]:
    return [entry.name for entry in store.entries(f"library/{SCORER}/manifest")]


def test_compacting_adds_every_score_once(store: LocalStore) -> None:
    """Scores of all shards enter, sorted by key; refusals do not; a second time adds nothing."""
    put_segment(store, [make_scored(3), make_scored(1), make_failed(2)])
    put_segment(store, [make_scored(0)], folder=f"{RUN}/00001")
    assert compact(store, SCORER, RUN, PLAN) == 9
    assert compact(store, SCORER, RUN, PLAN) == 0
    assert len(manifests(store)) == 1
    (file,) = read_library(store, SCORER).files
    table = pq.read_table(store.fetch(file.name))
    assert table.schema.equals(arrow_schema("library"))
    assert table.equals(table.sort_by([("query_key", "ascending"), ("passage_key", "ascending")]))
    assert (table.num_rows, file.rows) == (9, 9)
    assert store.fetch(file.name).stat().st_size == file.size


def test_the_manifest_numbers_count_up_and_name_files_alone(store: LocalStore) -> None:
    """Each compaction adds a file and a manifest that names the earlier ones, but no segment."""
    put_segment(store, [make_scored(0), make_scored(2)])
    compact(store, SCORER, RUN, PLAN)
    put_segment(store, [make_scored(1)], folder=f"{OTHER_RUN}/00000", plan_id=OTHER_PLAN)
    compact(store, SCORER, OTHER_RUN, OTHER_PLAN)
    library = read_library(store, SCORER)
    assert (library.number, len(library.files)) == (2, 2)
    document = read_json(store, manifests(store)[-1])
    assert (document["contract"], document["version"], document["number"]) == ("library", 2, 2)
    assert document["scorer_id"] == SCORER
    assert all(set(item) == {"name", "sha256", "size", "rows"} for item in document["files"])
    assert set(look_up(store)) == {0, 1, 2}


def test_segments_that_come_later_enter_later(store: LocalStore) -> None:
    """A run that went on after a compaction is compacted again for what is new."""
    put_segment(store, [make_scored(0)])
    compact(store, SCORER, RUN, PLAN)
    put_segment(store, [make_scored(1)], sequence=1)
    assert compact(store, SCORER, RUN, PLAN) > 0
    assert compact(store, SCORER, RUN, PLAN) == 0
    assert set(look_up(store)) == {0, 1}


def test_segments_without_a_new_score_are_remembered(store: LocalStore) -> None:
    """Refusals and repeats make no new file, and are not compacted again and again."""
    put_segment(store, [make_scored(0)])
    compact(store, SCORER, RUN, PLAN)
    put_segment(store, [make_failed(1)], sequence=1)
    put_segment(store, [make_scored(0, score=0.9)], sequence=2)
    compact(store, SCORER, RUN, PLAN)
    assert len(read_library(store, SCORER).files) == 1
    before = manifests(store)
    assert compact(store, SCORER, RUN, PLAN) == 0
    assert manifests(store) == before
    assert look_up(store) == {0: (0.5, "model-1")}


def test_compacting_one_run_twice_at_once_adds_it_once(store: LocalStore) -> None:
    """Two processes that compact the same run leave one file and one manifest."""
    put_segment(store, [make_scored(number) for number in range(5)])
    race([(RUN, PLAN)] * 4, store)
    assert len(manifests(store)) == 1
    assert len(read_library(store, SCORER).files) == 1


def test_compacting_different_runs_at_once_loses_none(store: LocalStore) -> None:
    """Whoever loses the race for a manifest adds its scores to the winner's."""
    plans = [format(number, "032x") for number in range(1, 6)]
    for number, plan in enumerate(plans):
        put_segment(store, [make_scored(number)], folder=f"_all/run/{plan}/00000", plan_id=plan)
    race([(f"_all/run/{plan}", plan) for plan in plans], store)
    assert set(look_up(store)) == set(range(len(plans)))


def race(runs: list[tuple[str, str]], store: LocalStore) -> None:
    barrier = threading.Barrier(len(runs))

    def one(run: str, plan: str) -> None:
        barrier.wait()
        compact(store, SCORER, run, plan)

    threads = [threading.Thread(target=one, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_newest_score_of_a_pair_is_found(store: LocalStore) -> None:
    """A pair that was paid on two days has the later day's score."""
    put_segment(store, [make_scored(0, score=0.2, received_at=EPOCH + DAY, model="new")])
    put_segment(
        store,
        [make_scored(0, score=0.7, received_at=EPOCH, model="old")],
        folder=f"{OTHER_RUN}/00000",
        plan_id=OTHER_PLAN,
    )
    for run, plan in ((RUN, PLAN), (OTHER_RUN, OTHER_PLAN)):
        compact(store, SCORER, run, plan)
    assert look_up(store) == {0: (0.2, "new")}


def test_scores_older_than_the_cutoff_are_not_found(store: LocalStore) -> None:
    """The cutoff is an instant, whatever the time zone of the reader."""
    put_segment(store, [make_scored(n, received_at=EPOCH + n * DAY) for n in range(3)])
    compact(store, SCORER, RUN, PLAN)
    at = datetime.fromtimestamp(EPOCH + DAY, UTC)
    assert set(look_up(store, cutoff=at)) == {1, 2}
    assert set(look_up(store, cutoff=at.replace(microsecond=1))) == {2}


def test_scores_of_another_scorer_are_not_found(store: LocalStore) -> None:
    """A library is one scorer's."""
    put_segment(store, [make_scored(0)])
    compact(store, SCORER, RUN, PLAN)
    assert look_up(store, scorer="b" * 32) == {}
    assert read_library(store, "b" * 32).number == 0


def test_a_torn_segment_does_not_enter(store: LocalStore) -> None:
    """What cannot be read is left out, and noted as ignored, not as read."""
    put_segment(store, [make_scored(0)])
    name = put_segment(store, [make_scored(1)], sequence=1)
    store.put(name, store.read(name)[:-20])
    assert compact(store, SCORER, RUN, PLAN) == 3
    (marker,) = read_markers(store, RUN)
    assert name not in marker.segments
    assert marker.ignored == (name,)


def test_an_interrupted_compaction_is_taken_up_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without its manifest is not in the library; the next compaction uses it."""
    put_segment(store, [make_scored(0)])
    create = store.put_if_absent

    def die(name: str, data: bytes) -> Any:
        if "manifest" in name:
            raise OSError(5, "input/output error")
        return create(name, data)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_if_absent", die)
        with pytest.raises(OSError, match="input/output"):
            compact(store, SCORER, RUN, PLAN)
    assert look_up(store) == {}
    assert compact(store, SCORER, RUN, PLAN) == 3
    assert set(look_up(store)) == {0}


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_library_is_a_typed_error(store: LocalStore, damage: str) -> None:
    """A file that is gone or cut short is named, with what to do; nothing is paid in silence."""
    put_segment(store, [make_scored(0)])
    compact(store, SCORER, RUN, PLAN)
    ((name, *_),) = [astuple(file) for file in read_library(store, SCORER).files]
    if damage == "gone":
        store.delete(name)
    else:
        store.put(name, store.read(name)[:-1])
    with pytest.raises(StateError, match=r"scores-.*restore it, or remove library/"):
        look_up(store)


def test_pieces_are_kept(store: LocalStore) -> None:
    """As how many pieces a passage was sent goes into the library with its score."""
    whole, cut = make_scored(0, passages=1), replace(make_scored(1, passages=1), parts=4)
    put_segment(store, [whole, cut])
    compact(store, SCORER, RUN, PLAN)
    (file,) = read_library(store, SCORER).files
    assert pq.read_table(store.fetch(file.name)).column("parts").to_pylist() == [None, 4]


def test_the_library_holds_no_text(store: LocalStore) -> None:
    """Neither a query nor a document stands in a file of the library."""
    put_segment(store, [make_scored(0)])
    compact(store, SCORER, RUN, PLAN)
    for entry in store.entries("library"):
        assert CANARY.encode() not in store.read(entry.name)
    ((name, *_),) = [astuple(file) for file in read_library(store, SCORER).files]
    assert CANARY not in str(pq.read_table(store.fetch(name)).to_pylist())
