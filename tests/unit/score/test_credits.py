"""Credits against a server that counts arrivals in every window, whatever the latencies."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.score.credits import Credits

WINDOW = 10.0


@given(
    limit=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    slow=st.floats(0, 3 * WINDOW),
    heaviest=st.integers(1, 80),
    error=st.floats(0.3, 1.0),
)
def test_no_window_of_the_server_holds_more_than_the_limit(
    limit: int, seed: int, slow: float, heaviest: int, error: float
) -> None:
    """A request arrives any time before its response; every window holds at most the limit.

    Also where the server counts less than was estimated and says so.
    """
    rng = random.Random(seed)
    purse = Credits(limit, WINDOW, 0.0)
    now = 0.0
    flying: list[tuple[float, float, float]] = []  # response, estimate, counted
    arrivals: list[tuple[float, float]] = []
    for _ in range(60):
        amount = min(rng.randint(1, heaviest), limit)
        while (due := purse.due(amount, now)) > now + 1e-9:
            flying.sort()
            if flying and flying[0][0] <= due:
                now, estimate, counted = flying.pop(0)
                purse.give_back(estimate, now, counted=counted)
            else:
                assert due < math.inf, "nothing in flight and nothing due"
                now = due
        purse.take(amount)
        response = now + rng.uniform(0, slow)
        counted = amount * rng.uniform(error, 1.0)
        arrivals.append((rng.uniform(now, response), counted))
        flying.append((response, amount, counted))
        now += rng.choice([0.0, rng.uniform(0, 1.0)])
        for item in sorted(item for item in flying if item[0] <= now):
            flying.remove(item)
            purse.give_back(item[1], item[0], counted=item[2])
    for begin, _ in arrivals:
        inside = sum(size for at, size in arrivals if begin <= at < begin + WINDOW)
        assert inside <= limit * (1 + 1e-6)


def test_the_first_window_comes_evenly() -> None:
    """Before any response, k credits are due k / limit of a window after the start."""
    purse = Credits(100, WINDOW, 5.0)
    for number in range(1, 101):
        assert purse.due(1, 5.0) == pytest.approx(5.0 + number * WINDOW / 100)
        purse.take(1)
    assert purse.due(1, 5.0) == math.inf


def test_a_credit_returns_one_window_after_its_response() -> None:
    """Not a moment earlier, and at most a 4,096th of a window later."""
    purse = Credits(1, WINDOW, 0.0, head=1.0)
    assert purse.due(1, 0.0) == 0.0
    purse.take(1)
    purse.give_back(1, 2.5)
    due = purse.due(1, 2.5)
    assert 12.5 <= due <= 12.5 + WINDOW / 4096


def test_memory_does_not_grow_with_the_limit() -> None:
    """A hundred thousand returns of one window are kept in at most 4,097 grains."""
    purse = Credits(10**6, WINDOW, 0.0, head=10.0**6)
    for number in range(100_000):
        purse.take(1)
        purse.give_back(1, number * WINDOW / 100_000)
    assert len(purse._returns) <= 4097


def test_more_than_the_limit_counts_as_the_limit() -> None:
    """A request heavier than the whole limit is sent alone in its window, not never."""
    purse = Credits(10, WINDOW, 0.0)
    assert purse.due(50, 0.0) == pytest.approx(WINDOW)


@pytest.mark.parametrize(("limit", "window"), [(0, 1.0), (1, 0.0), (-1, 1.0)])
def test_a_pace_must_be_possible(limit: int, window: float) -> None:
    """No amount, or no window, is refused."""
    with pytest.raises(ValueError, match="above zero"):
        Credits(limit, window, 0.0)
