"""Packing against brute force and against the lower bound."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.plan.packing import (
    billing_chunks,
    chunks_query_once,
    lower_bound_units,
    pack_query,
    search_units,
)

_weight = st.one_of(st.just(1), st.integers(1, 9), st.integers(1, 250))


def _cost(weights: list[int], requests: list[list[int]]) -> int:
    return sum(search_units(sum(weights[index] for index in request)) for request in requests)


def _brute_force(
    weights: list[int], max_passages: int, sizes: list[int] | None = None, room: int = 0
) -> int:
    """Try every partition."""
    tokens = sizes or [0] * len(weights)
    best = sum(map(search_units, weights))
    bins: list[list[int]] = []

    def place(index: int) -> None:
        nonlocal best
        if index == len(weights):
            best = min(best, _cost(weights, bins))
            return
        for bin_ in bins:
            held = sum(tokens[member] for member in bin_)
            if len(bin_) < max_passages and held + tokens[index] <= room:
                bin_.append(index)
                place(index + 1)
                bin_.pop()
        bins.append([index])
        place(index + 1)
        bins.pop()

    place(0)
    return best


def _pack(weights: list[int], max_passages: int) -> list[list[int]]:
    return [
        request.tolist()
        for request in pack_query(np.array(weights, dtype=np.int64), max_passages=max_passages)
    ]


@given(st.lists(_weight, max_size=300), st.integers(1, 1000))
def test_every_passage_is_sent_once_within_the_limits(
    weights: list[int], max_passages: int
) -> None:
    """Requests partition the passages, keep their order inside and obey the limit on the count."""
    requests = _pack(weights, max_passages)
    assert sorted(index for request in requests for index in request) == list(range(len(weights)))
    assert all(request == sorted(request) for request in requests)
    assert all(0 < len(request) <= max_passages for request in requests)
    assert requests == _pack(weights, max_passages)


@given(st.lists(st.tuples(_weight, st.integers(1, 400)), max_size=20), st.integers(100, 1000))
def test_the_lower_bound_is_reached(runs: list[tuple[int, int]], max_passages: int) -> None:
    """Thousands of passages of any weights cost the lower bound exactly, by requests of 100 up."""
    weights = [weight for weight, times in runs for _ in range(times)]
    bound = lower_bound_units(np.array(weights, dtype=np.int64), max_passages=max_passages)
    requests = _pack(weights, max_passages)
    assert sorted(index for request in requests for index in request) == list(range(len(weights)))
    assert all(len(request) <= max_passages for request in requests)
    assert _cost(weights, requests) == bound == math.ceil(sum(weights) / 100)


@given(st.lists(st.tuples(_weight, st.integers(1, 40)), max_size=10), st.integers(1, 99))
def test_no_packing_is_below_the_lower_bound(
    runs: list[tuple[int, int]], max_passages: int
) -> None:
    """With fewer passages a request the bound counts requests too; none costs less than it."""
    weights = [weight for weight, times in runs for _ in range(times)]
    bound = lower_bound_units(np.array(weights, dtype=np.int64), max_passages=max_passages)
    assert bound >= math.ceil(len(weights) / max_passages)
    assert _cost(weights, _pack(weights, max_passages)) >= bound


@given(st.lists(_weight, min_size=1, max_size=6), st.integers(1, 6))
def test_units_stay_within_one_of_the_optimum(weights: list[int], max_passages: int) -> None:
    """On small queries no packing under any limit on the count is more than a unit cheaper."""
    cost = _cost(weights, _pack(weights, max_passages))
    optimum = _brute_force(weights, max_passages)
    assert optimum <= cost <= optimum + 1
    if len(weights) <= max_passages:
        assert cost == optimum


_sized = st.lists(st.tuples(_weight, st.integers(1, 60)), min_size=1, max_size=6)


@given(_sized, st.integers(60, 120), st.integers(1, 6))
def test_requests_of_a_limited_size_are_near_the_optimum(
    passages: list[tuple[int, int]], room: int, max_passages: int
) -> None:
    """With a limit on tokens each request keeps it, for at most a unit above the optimum."""
    weights, sizes = [weight for weight, _ in passages], [size for _, size in passages]
    chunks, tokens = np.array(weights), np.array(sizes)
    requests = [
        request.tolist()
        for request in pack_query(chunks, max_passages=max_passages, tokens=tokens, room=room)
    ]
    assert sorted(index for request in requests for index in request) == list(range(len(weights)))
    assert all(sum(sizes[index] for index in request) <= room for request in requests)
    assert all(len(request) <= max_passages for request in requests)
    bound = lower_bound_units(chunks, max_passages=max_passages, tokens=tokens, room=room)
    optimum = _brute_force(weights, max_passages, sizes, room)
    assert bound <= optimum <= _cost(weights, requests) <= optimum + 1


@given(st.integers(0, 2100), st.lists(st.integers(0, 10_000), max_size=20))
def test_chunks_are_the_dearer_reading(query: int, passages: list[int]) -> None:
    """Chunks equal the larger of the two readings, computed per passage in plain Python."""
    expected = [
        max(
            1,
            math.ceil((query + passage) / 500),
            math.ceil(passage / (500 - query)) if query < 500 else 0,
        )
        for passage in passages
    ]
    tokens = np.array(passages, dtype=np.int64)
    assert billing_chunks(query, tokens).tolist() == expected
    assert (chunks_query_once(tokens + query) <= billing_chunks(query, tokens)).all()
