"""Every kind of window admits exactly what a naive recount of its rule admits."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_jobs.endpoint.limits import RateLimit, RateWindow, WindowKind

WINDOW = 10.0
KINDS: tuple[WindowKind, ...] = ("sliding", "counting", "fixed")


class Arrival(NamedTuple):
    """One request as the server saw it."""

    instant: float
    tokens: int
    admitted: bool


def recount(limit: RateLimit, past: list[Arrival], now: float, tokens: int) -> bool:
    """Say by the words of the rule alone whether a request is admitted."""
    if limit.kind == "fixed":
        room = [a for a in past if a.admitted and a.instant // WINDOW == now // WINDOW]
    else:
        room = [a for a in past if a.instant > now - WINDOW]
        if limit.kind == "sliding":
            room = [a for a in room if a.admitted]
    requests_fit = limit.requests is None or len(room) + 1 <= limit.requests
    spent = sum(a.tokens for a in room) + tokens
    return requests_fit and (limit.tokens is None or spent <= limit.tokens)


GAPS = st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0, 9.0])  # exact in binary, and so is their sum
LIMITS = st.builds(
    RateLimit,
    st.integers(1, 5),
    st.none() | st.integers(1, 40),
    st.just(WINDOW),
    st.sampled_from(KINDS),
) | st.builds(RateLimit, st.none(), st.integers(1, 40), st.just(WINDOW), st.sampled_from(KINDS))


@settings(deadline=None)
@given(limit=LIMITS, arrivals=st.lists(st.tuples(GAPS, st.integers(0, 15)), max_size=60))
def test_windows_agree_with_a_naive_recount(
    limit: RateLimit, arrivals: list[tuple[float, int]]
) -> None:
    """Each request is admitted if and only if what its window holds leaves room for it."""
    window, now = RateWindow(limit), 0.0
    past: list[Arrival] = []
    for gap, tokens in arrivals:
        now += gap
        admitted = window.admit(now, tokens) == 0
        assert admitted == recount(limit, past, now, tokens)
        past.append(Arrival(now, tokens, admitted))


@settings(deadline=None)
@given(limit=LIMITS, arrivals=st.lists(st.tuples(GAPS, st.integers(0, 15)), max_size=60))
def test_the_wait_is_exact(limit: RateLimit, arrivals: list[tuple[float, int]]) -> None:
    """A refused request that fits at all is admitted after the wait it was told, not before."""
    window, now = RateWindow(limit), 0.0
    for gap, tokens in arrivals:
        now += gap
        wait = window.admit(now, tokens)
        if wait == 0 or (limit.tokens is not None and tokens > limit.tokens):
            continue
        early, late = copy.deepcopy(window), copy.deepcopy(window)
        assert early.admit(now + wait - 0.0625, tokens) > 0
        assert late.admit(now + wait, tokens) == 0


def test_a_sliding_window_admits_again_when_the_oldest_leaves() -> None:
    """A refusal names the exact wait, after which the next request is admitted."""
    window = RateWindow(RateLimit(2, window_seconds=10.0))
    assert [window.admit(0.0), window.admit(4.0), window.admit(9.0)] == [0.0, 0.0, 1.0]
    assert window.admit(10.0) == 0.0
    assert window.admit(10.0) == 4.0


def test_a_counting_window_never_serves_one_who_hammers() -> None:
    """Where refused requests count, a client that repeats at once is served once only."""
    window = RateWindow(RateLimit(1, window_seconds=10.0, kind="counting"))
    assert [window.admit(float(second)) == 0 for second in range(30)] == [True] + [False] * 29
    assert window.admit(29.0 + 10.0) == 0


def test_a_fixed_window_lets_twice_the_limit_pass_its_boundary() -> None:
    """Windows begin at multiples of their length, whatever came just before."""
    window = RateWindow(RateLimit(2, window_seconds=10.0, kind="fixed"))
    times = [9.0, 9.5, 9.75, 10.0, 10.25, 10.5]
    assert [window.admit(now) for now in times] == [0, 0, 0.25, 0, 0, 9.5]


def test_a_request_beyond_the_limit_is_told_a_whole_window() -> None:
    """A request of more tokens than the limit never fits."""
    window = RateWindow(RateLimit(tokens=100, window_seconds=10.0))
    assert window.admit(0.0, 101) == 10.0
    assert window.admit(0.0, 100) == 0.0


def test_rates_per_minute_are_scaled_to_the_window() -> None:
    """1,000 requests and 90 tokens a minute are 100 and 9 in six seconds; never less than one."""
    limit = RateLimit.per_minute(1000, 90, window_seconds=6.0, kind="fixed")
    assert limit == RateLimit(100, 9, 6.0, "fixed")
    assert RateLimit.per_minute(1, window_seconds=1.0) == RateLimit(1, None, 1.0)


@pytest.mark.parametrize(
    ("requests", "tokens", "seconds", "kind"),
    [
        (0, None, 1.0, "sliding"),
        (None, None, 1.0, "sliding"),
        (1, 0, 1.0, "sliding"),
        (1, None, 0.0, "sliding"),
        (1, None, -1.0, "sliding"),
        (1, None, float("nan"), "sliding"),
        (1, None, 1.0, "leaky"),
    ],
)
def test_limits_without_room_are_refused(
    requests: int | None, tokens: int | None, seconds: float, kind: WindowKind
) -> None:
    """A limit that admits nothing or limits nothing is an error at once."""
    with pytest.raises(ValueError, match="rate limit"):
        RateLimit(requests, tokens, seconds, kind)
