"""Loading segments: one score per pair, damage left out and named, and what it all cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rerank_jobs.ledger.loading import Loaded, Spent, load_segments
from rerank_jobs.model import Outcome
from rerank_jobs.storage import LocalStore
from tests.unit.ledger.kit import FOLDER, PLAN, make_failed, make_request, make_scored, put_segment


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def first_scores(loaded: Loaded) -> dict[int, float | None]:
    """Return the score of each query's passage 0."""
    rows = loaded.pairs.to_pylist()
    zero = bytes(16)
    return {
        int.from_bytes(row["query_key"], "big"): row["score"]
        for row in rows
        if row["passage_key"] == zero
    }


def test_an_empty_folder_holds_nothing(store: LocalStore) -> None:
    """Before the first segment there are no pairs, no cost and no keys."""
    loaded = load_segments(store, FOLDER, PLAN)
    assert (loaded.pairs.num_rows, loaded.spent, loaded.keys()) == (0, Spent(), set())
    assert (loaded.segments, loaded.torn) == ((), ())


def test_pairs_and_totals_of_all_segments(store: LocalStore) -> None:
    """Every pair once; replies, units (reported, else planned), dollars and refusals add up."""
    put_segment(store, [make_scored(1, usd=0.002, units=2), make_scored(2, units=None)])
    put_segment(store, [make_failed(3, passages=2), make_scored(4)], sequence=1)
    loaded = load_segments(store, FOLDER, PLAN)
    assert loaded.pairs.num_rows == 3 + 3 + 2 + 3
    assert loaded.spent.cost_usd == pytest.approx(0.004)
    assert replace(loaded.spent, cost_usd=0.0) == Spent(
        requests=3, search_units=2 + 1 + 1, planned_units=3, passages_failed=2
    )
    errors = loaded.pairs.column("error").to_pylist()
    assert sorted(error for error in errors if error) == ["http_400"] * 2


def test_keys_name_every_pair_that_needs_no_request(store: LocalStore) -> None:
    """Scored and refused pairs alike are not sent again."""
    put_segment(store, [make_scored(1), make_failed(2)])
    wanted = {
        request.query_key + passage.key
        for request in (make_request(1), make_request(2))
        for passage in request.passages
    }
    assert load_segments(store, FOLDER, PLAN).keys() == wanted


@pytest.mark.parametrize("sixteenth", range(16))
@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_a_torn_segment_is_left_out_and_named(
    store: LocalStore, sixteenth: int, damage: str
) -> None:
    """Cut or zeroed at any sixteenth, a segment costs only itself: the others are used."""
    put_segment(store, [make_scored(1)])
    name = put_segment(store, [make_scored(number) for number in range(2, 60)], sequence=1)
    put_segment(store, [make_scored(60)], epoch=2)
    data = store.read(name)
    start, end = (len(data) * place // 16 for place in (sixteenth, sixteenth + 1))
    rest = data[end:] if damage == "zeroed" else b""
    store.put(name, data[:start] + bytes(end - start if damage == "zeroed" else 0) + rest)
    loaded = load_segments(store, FOLDER, PLAN)
    assert loaded.torn == (name,)
    assert len(loaded.segments) == 2
    assert set(first_scores(loaded)) == {1, 60}


def test_a_segment_of_another_plan_is_left_out_and_named(store: LocalStore) -> None:
    """Scores that were paid under another plan are not this plan's."""
    put_segment(store, [make_scored(1)])
    foreign = put_segment(store, [make_scored(2)], sequence=1, plan_id="f" * 32)
    loaded = load_segments(store, FOLDER, PLAN)
    assert (set(first_scores(loaded)), loaded.torn) == ({1}, (foreign,))
    assert set(first_scores(load_segments(store, FOLDER))) == {1, 2}


def test_of_a_pair_paid_twice_the_first_in_ledger_order_counts(store: LocalStore) -> None:
    """The lowest (epoch, sequence, row) wins, whichever was put first; the cost counts twice."""
    put_segment(store, [make_scored(1, score=0.9), make_scored(2, score=0.8)], epoch=2)
    put_segment(store, [make_scored(1, score=0.2)], epoch=1, sequence=10)
    put_segment(store, [make_scored(1, score=0.1)], epoch=1, sequence=9)
    put_segment(store, [make_scored(3, score=0.3), make_scored(3, score=0.7)], epoch=3)
    loaded = load_segments(store, FOLDER, PLAN)
    assert first_scores(loaded) == {1: 0.1, 2: 0.8, 3: 0.3}
    assert loaded.pairs.num_rows == 9
    assert loaded.spent.requests == 6
    assert loaded.spent.cost_usd == pytest.approx(0.006)


@pytest.mark.parametrize("refused_first", [True, False])
def test_a_score_beats_a_refusal(store: LocalStore, *, refused_first: bool) -> None:
    """A pair that was refused once and scored once is scored, in whatever order."""
    outcomes: list[Outcome] = [make_failed(1), make_scored(1)]
    for epoch, outcome in enumerate(outcomes if refused_first else outcomes[::-1], start=1):
        put_segment(store, [outcome], epoch=epoch)
    loaded = load_segments(store, FOLDER, PLAN)
    assert first_scores(loaded) == {1: 0.5}
    assert loaded.spent.passages_failed == 0


def test_a_pair_scored_with_others_than_before_counts_once(store: LocalStore) -> None:
    """Replies overlap in single passages: each pair is told apart by both of its keys."""
    put_segment(store, [make_scored(1, passages=2, score=0.1)])
    put_segment(store, [make_scored(1, passages=4, score=0.6)], sequence=1)
    scores = load_segments(store, FOLDER, PLAN).pairs.sort_by("passage_key").column("score")
    assert scores.to_pylist() == pytest.approx([0.1, 0.101, 0.602, 0.603])


def test_a_disk_that_cannot_be_read_is_an_error_and_not_a_torn_segment(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that is only out of reach is never taken for one that was not paid."""
    put_segment(store, [make_scored(1)])

    def refuse(_: str) -> bytes:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(store, "read", refuse)
    with pytest.raises(OSError, match="input/output"):
        load_segments(store, FOLDER, PLAN)
