"""Two readings of the same pairs compared: what counts as another model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.drift import Reading, compare

BASE = Reading(("m",), ("p",), (0.9, 0.5, 0.1))


def test_the_same_reading_has_not_moved() -> None:
    """Equal readings differ in nothing, and say so."""
    drift = compare(BASE, BASE)
    assert not drift.moved
    assert (drift.largest, drift.scores_moved, drift.ranks_moved) == (0.0, 0, 0)
    assert drift.describe().startswith("the same")


def test_a_score_within_the_tolerance_has_not_moved_and_one_beyond_has() -> None:
    """The tolerance is absolute; the largest change is named by its pair."""
    near = Reading(("m",), ("p",), (0.9004, 0.5, 0.1))
    far = Reading(("m",), ("p",), (0.9004, 0.5, 0.12))
    assert not compare(BASE, near).moved
    drift = compare(BASE, far)
    assert (drift.moved, drift.scores_moved, drift.pair) == (True, 1, 2)
    assert "1 scores moved, by up to 0.02 (document 3)" in drift.describe()
    assert not compare(BASE, far, tolerance=0.05).moved


def test_another_model_or_provider_has_moved_whatever_the_scores() -> None:
    """Names alone are an alarm, each with what it was and what it is."""
    model = compare(BASE, Reading(("n",), ("p",), BASE.scores))
    provider = compare(BASE, Reading(("m",), (), BASE.scores))
    assert model.describe() == "model m became n"
    assert provider.describe() == "provider p became none named"
    assert model.moved
    assert provider.moved


def test_swapped_near_ties_are_told_but_are_no_alarm() -> None:
    """Documents whose scores differ by less than the tolerance may change places."""
    before = Reading(("m",), (), (0.5, 0.5001, 0.1))
    after = Reading(("m",), (), (0.5001, 0.5, 0.1))
    drift = compare(before, after)
    assert (drift.moved, drift.ranks_moved) == (False, 2)


def test_readings_of_unequal_length_cannot_be_compared() -> None:
    """They are of different pairs."""
    with pytest.raises(ValueError, match="zip"):
        compare(BASE, Reading(("m",), ("p",), (0.9,)))


SCORES = st.lists(st.floats(-10, 10), min_size=1, max_size=20)


@given(SCORES, st.floats(0, 1))
def test_moved_is_the_largest_change_beyond_the_tolerance(
    scores: list[float], shift: float
) -> None:
    """A shift of one score moves a reading exactly if it is more than the tolerance."""
    after = [*scores[:-1], scores[-1] + shift]
    drift = compare(Reading((), (), tuple(scores)), Reading((), (), tuple(after)), 0.25)
    assert drift.moved == (abs(after[-1] - scores[-1]) > 0.25)
    assert drift.largest == abs(after[-1] - scores[-1])
