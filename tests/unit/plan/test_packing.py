"""Prices and request packing of one query."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rerank_jobs.errors import JobError
from rerank_jobs.plan.packing import (
    billing_chunks,
    lower_bound_units,
    pack_query,
    search_units,
)


def _units(chunks: np.ndarray, requests: list[np.ndarray]) -> list[int]:
    return [search_units(int(chunks[request].sum())) for request in requests]


@pytest.mark.parametrize(
    ("documents", "tokens", "query", "units"),
    [
        (80, 350, 30, 1),
        (150, 350, 30, 2),
        (100, 800, 20, 2),
        (100, 950, 40, 3),
        (100, 1200, 40, 3),
        (250, 400, 50, 3),
        (100, 4000, 40, 9),
    ],
)
def test_units_of_the_worked_examples(documents: int, tokens: int, query: int, units: int) -> None:
    """The worked price examples come out, by the dearer reading where they are ambiguous."""
    chunks = billing_chunks(query, np.full(documents, tokens))
    assert search_units(int(chunks.sum())) == units


@pytest.mark.parametrize(
    ("query", "passage", "chunks"),
    [
        (0, 0, 1),
        (0, 500, 1),
        (0, 501, 2),
        (100, 400, 1),
        (100, 401, 2),
        (499, 2, 2),
        (499, 3, 3),
        (500, 1, 2),
        (500, 0, 1),
        (2048, 2045, 9),
    ],
)
def test_chunks_at_the_edges(query: int, passage: int, chunks: int) -> None:
    """A passage is one chunk up to 500 tokens with the query; from q = 500 one reading is left."""
    assert billing_chunks(query, np.array([passage])).tolist() == [chunks]


def test_chunks_take_one_query_length_per_passage() -> None:
    """Passages of many queries are priced in one call, each with its own query's length."""
    assert billing_chunks(np.array([0, 300]), np.array([400, 400])).tolist() == [1, 2]


def test_units_of_arrays() -> None:
    """Units round up per element, and nothing costs nothing."""
    assert search_units(np.array([0, 1, 100, 101])).tolist() == [0, 1, 1, 2]
    assert search_units(0) == 0


def test_no_passages_make_no_request() -> None:
    """A query without passages sends nothing."""
    assert pack_query(np.array([], dtype=np.int64)) == []


def test_one_unit_stays_one_request_in_order() -> None:
    """What fits one unit is one request in the given order."""
    (request,) = pack_query(np.array([1, 5, 94]))
    assert request.tolist() == [0, 1, 2]


def test_short_passages_are_cut_every_hundred_in_order() -> None:
    """Passages of one chunk go out in given order, a hundred a request."""
    requests = pack_query(np.ones(250, dtype=np.int64))
    assert [len(request) for request in requests] == [100, 100, 50]
    assert np.concatenate(requests).tolist() == list(range(250))


def test_gaps_are_filled_before_requests_grow() -> None:
    """Later small passages fill earlier requests, so that each request stays one unit."""
    chunks = np.array([60, 60, 40, 40])
    requests = pack_query(chunks)
    assert [request.tolist() for request in requests] == [[0, 2], [1, 3]]


def test_requests_grow_only_where_that_saves_a_unit() -> None:
    """Passages that leave 40 chunks of each unit empty share a request of several units."""
    chunks = np.full(5, 60)
    requests = pack_query(chunks)
    assert sum(_units(chunks, requests)) == lower_bound_units(chunks) == 3


def test_heavy_first_keeps_one_unit_requests() -> None:
    """Where packing in order would need a larger request, heavy passages are placed first."""
    chunks = np.array([30, 30, 30, 70, 70, 70])
    assert _units(chunks, pack_query(chunks)) == [1, 1, 1]


def test_a_passage_of_several_units_fits_one_request() -> None:
    """A passage of more than 100 chunks is one request whose rest others fill."""
    chunks = np.array([250, 50])
    assert [request.tolist() for request in pack_query(chunks)] == [[0, 1]]


def test_no_request_holds_more_than_a_thousand_passages() -> None:
    """The advised count per request holds, at the price of the lower bound."""
    chunks = np.full(2500, 51)
    requests = pack_query(chunks)
    assert max(len(request) for request in requests) <= 1000
    assert sum(_units(chunks, requests)) == lower_bound_units(chunks)


@pytest.mark.parametrize(("least", "most"), [(1, 9), (3, 3), (51, 51), (1, 250)])
def test_a_query_of_100_000_passages_is_packed_in_seconds(least: int, most: int) -> None:
    """The bound is reached in linear time: less than ten seconds where one or so is needed."""
    chunks = np.random.default_rng(0).integers(least, most, 100_000, endpoint=True)
    started = time.process_time()
    requests = pack_query(chunks)
    assert time.process_time() - started < 10
    assert sum(_units(chunks, requests)) == lower_bound_units(chunks)
    assert max(len(request) for request in requests) <= 1000


def test_most_requests_stay_one_unit() -> None:
    """Only as many requests are packed anew as save the units that are wasted."""
    chunks = np.full(300, 33)  # three to a request, one chunk of each unit is left
    requests = pack_query(chunks)
    assert sum(_units(chunks, requests)) == lower_bound_units(chunks) == 99
    chunks = np.array([60] * 5 + [97] * 3)  # the five save two units, the others stay alone
    assert sorted(_units(chunks, pack_query(chunks))) == [1, 1, 1, 3]


def test_a_limit_on_tokens_splits_requests() -> None:
    """Passages are packed by size where a request's tokens are limited, each request a unit."""
    requests = pack_query(np.ones(6), tokens=np.array([60, 50, 40, 30, 20, 10]), room=100)
    assert [request.tolist() for request in requests] == [[0, 2], [1, 3, 4], [5]]
    bound = lower_bound_units(np.ones(6), tokens=np.array([60, 50, 40, 30, 20, 10]), room=100)
    assert bound == len(requests) == 3


def test_a_whole_query_is_one_request_or_none() -> None:
    """A query that must not be split is one request of several units, or an error."""
    (request,) = pack_query(np.full(300, 2), whole=True)
    assert len(request) == 300
    with pytest.raises(JobError, match="one has 33 passages, at most 32 fit"):
        pack_query(np.ones(33), max_passages=32, whole=True)
    with pytest.raises(JobError, match="of 70 tokens, at most 60"):
        pack_query(np.ones(2), tokens=np.array([30, 40]), room=60, whole=True)
