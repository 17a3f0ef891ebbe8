"""Percentiles out of counts that add up."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rerank_jobs.model import ScoreTotals, Tally
from rerank_jobs.score.latency import classify_latency, read_percentile


def tally(latencies: list[float]) -> Tally:
    return Tally.of(Counter(map(classify_latency, latencies)))


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_percentiles_are_right_within_five_percent(share: float) -> None:
    """Read from counts, a percentile is at most 5 % above the true one and never below it."""
    rng = random.Random(5)
    latencies = sorted(rng.lognormvariate(-2, 0.7) for _ in range(10_000))
    true = latencies[int(share * len(latencies)) - 1]
    found = read_percentile(tally(latencies), share)
    assert found is not None
    assert true <= found * (1 + 1e-9)
    assert found <= 1.051 * true


def test_two_processes_add_up() -> None:
    """The percentile of two tallies together is that of all their latencies."""
    fast, slow = [0.01] * 90, [10.0] * 10
    together = ScoreTotals(latencies=tally(fast)).plus(ScoreTotals(latencies=tally(slow)))
    assert read_percentile(together.latencies, 0.5) == read_percentile(tally(fast), 0.5)
    assert read_percentile(together.latencies, 0.95) == read_percentile(tally(slow), 0.5)


def test_no_reply_has_no_percentile() -> None:
    """Without a latency there is nothing to read."""
    assert read_percentile(Tally(), 0.5) is None


def test_extreme_latencies_have_a_class() -> None:
    """Zero and ten minutes are counted like any other, in the order of their size."""
    assert classify_latency(0.0) == "000"
    assert classify_latency(0.001) < classify_latency(0.5) < classify_latency(600.0)
