"""What a run may spend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.score.allowance import Allowance


def test_everything_that_may_be_charged_is_spent() -> None:
    """Reported, estimated, unknown and in-flight dollars add up."""
    allowance = Allowance(1.0)
    for _ in range(5):
        assert allowance.admit(0.1)
    allowance.settle(0.1, 0.15, estimated=False)
    allowance.settle(0.1, 0.05, estimated=True)
    allowance.lose(0.1)
    allowance.release(0.1)
    assert allowance.reported_usd == pytest.approx(0.15)
    assert allowance.estimated_usd == pytest.approx(0.05)
    assert allowance.unknown_usd == pytest.approx(0.1)
    assert allowance.in_flight_usd == pytest.approx(0.1)
    assert allowance.spent_usd == pytest.approx(0.4)


def test_exact_money_buys_exactly_its_searches() -> None:
    """Rounding neither loses the last search nor gives one more."""
    allowance = Allowance(1.0)
    assert sum(allowance.admit(0.001) for _ in range(2000)) == 1000


def test_no_limit_admits_everything() -> None:
    """Without a limit only the sums are kept."""
    allowance = Allowance(None)
    assert allowance.admit(1e9)
    assert allowance.spent_usd == 1e9


def test_free_searches_need_no_money() -> None:
    """At price zero an allowance of zero admits, also when more was reported than planned."""
    allowance = Allowance(0.0)
    assert allowance.admit(0.0)
    allowance.settle(0.0, 0.5, estimated=False)
    assert allowance.admit(0.0)
    assert not allowance.admit(0.001)


@given(
    st.lists(
        st.tuples(st.floats(0, 0.1), st.sampled_from(["settle", "lose", "release", "keep"])),
        max_size=60,
    )
)
def test_at_planned_prices_the_limit_is_never_passed(steps: list[tuple[float, str]]) -> None:
    """Whatever becomes of the sends, spent stays within the limit and nothing is forgotten."""
    allowance = Allowance(1.0)
    for planned, fate in steps:
        if not allowance.admit(planned):
            assert allowance.spent_usd + planned > 1.0
            continue
        if fate == "settle":
            allowance.settle(planned, planned, estimated=False)
        elif fate == "lose":
            allowance.lose(planned)
        elif fate == "release":
            allowance.release(planned)
        assert -1e-9 <= allowance.spent_usd <= 1.0 + 1e-6
