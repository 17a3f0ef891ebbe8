"""Splitting a refused request, as pure steps."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.model import Passage, Request
from rerank_jobs.score.narrowing import Attempt, release_rest, split


def make(count: int, chunks: int = 1) -> Request:
    passages = tuple(
        Passage(index.to_bytes(16, "big"), f"text {index}", chunks, 8) for index in range(count)
    )
    return Request(3, b"q" * 16, "query", passages, -(-count * chunks // 100))


def texts(request: Request) -> list[str]:
    return [passage.text for passage in request.passages]


def test_halves_hold_every_passage_once_in_order() -> None:
    """Without a named index a request becomes two halves, priced by their own chunks."""
    left, right = split(Attempt(make(101, chunks=3)), None)
    assert [*left.texts, *right.texts] == texts(make(101))
    assert (left.search_units, right.search_units) == (2, 2)
    assert left.request.number == right.request.number == 3


def test_a_named_passage_stands_alone_and_the_rest_waits() -> None:
    """With a named index one attempt holds the passage alone, and the others as its rest."""
    (alone,) = split(Attempt(make(10)), 4)
    assert alone.texts == ["text 4"]
    assert alone.rest is not None
    assert len(alone.rest.passages) == 9
    (rest,) = release_rest(alone, guilty=True)
    assert len(rest.texts) == 9
    assert rest.trusting


def test_a_wrong_index_is_not_believed_again() -> None:
    """If the named passage is innocent the rest is halved, and later indexes are ignored."""
    (alone,) = split(Attempt(make(10)), 4)
    halves = release_rest(alone, guilty=False)
    assert [len(half.texts) for half in halves] == [4, 5]
    again = split(halves[0], 2)
    assert [len(half.texts) for half in again] == [2, 2]


def test_an_index_out_of_range_is_ignored() -> None:
    """An index that no passage has leads to halves."""
    assert len(split(Attempt(make(10)), 10)) == 2
    assert len(split(Attempt(make(10)), -1)) == 2


def test_parts_are_sent_in_place_of_the_passage() -> None:
    """The pieces of a passage are the texts of its attempt; each may fill one chunk more."""
    attempt = Attempt(make(1, chunks=99), parts=("a", "b"))
    assert attempt.texts == ("a", "b")
    assert attempt.search_units == 2


@given(st.integers(2, 300), st.sets(st.integers(0, 299), max_size=5), st.booleans())
def test_narrowing_ends_with_exactly_the_guilty_alone(
    count: int, guilty: set[int], named: bool
) -> None:
    """Whatever is guilty: every innocent passage is scored once, every guilty one fails alone.

    Unnamed, each guilty passage costs at most ceil(log2(n)) innocent requests.
    """
    bad = {f"text {index}" for index in guilty if index < count}
    queue = deque([Attempt(make(count))])
    scored: list[str] = []
    failed: list[str] = []
    accepted = 0
    while queue:
        attempt = queue.popleft()
        found = [index for index, text in enumerate(attempt.texts) if text in bad]
        if not found:
            accepted += 1
            scored += attempt.texts
            queue.extend(release_rest(attempt, guilty=False))
        elif len(attempt.texts) > 1:
            queue.extendleft(split(attempt, found[0] if named else None))
        else:
            failed += attempt.texts
            queue.extend(release_rest(attempt, guilty=True))
    assert sorted(failed) == sorted(bad)
    assert sorted([*scored, *failed]) == sorted(texts(make(count)))
    depth = (count - 1).bit_length()
    assert accepted <= (1 if named else max(1, len(bad) * depth))
