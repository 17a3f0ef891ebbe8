"""The sliding window never admits more than its limit in any window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.endpoint.limits import SlidingWindow


def test_window_admits_again_when_the_oldest_leaves() -> None:
    """A refusal names the exact wait, after which the next request is admitted."""
    window = SlidingWindow(2, 10.0)
    assert [window.admit(0.0), window.admit(4.0), window.admit(9.0)] == [0.0, 0.0, 1.0]
    assert window.admit(10.0) == 0.0
    assert window.admit(10.0) == 4.0


@given(
    limit=st.integers(1, 5),
    gaps=st.lists(st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0, 9.0]), max_size=60),
)
def test_no_window_holds_more_than_the_limit(limit: int, gaps: list[float]) -> None:
    """However requests arrive, each window of ten seconds holds at most ``limit`` admissions."""
    window, now, admitted = SlidingWindow(limit, 10.0), 0.0, []
    for gap in gaps:
        now += gap
        if window.admit(now) == 0:
            admitted.append(now)
    assert all(later - first >= 10.0 for first, later in zip(admitted, admitted[limit:]))  # noqa: B905


@pytest.mark.parametrize(("limit", "seconds"), [(0, 1.0), (1, 0.0), (1, -1.0)])
def test_empty_limits_are_refused(limit: int, seconds: float) -> None:
    """A limit without room is an error, not an endpoint that refuses everything."""
    with pytest.raises(ValueError, match="rate limit"):
        SlidingWindow(limit, seconds)
