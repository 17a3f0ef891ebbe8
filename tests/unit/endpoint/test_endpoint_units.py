"""Search units: the worked examples of the API's price."""

from __future__ import annotations

import pytest

from rerank_jobs.endpoint.units import Reading, count_chunks, count_units


@pytest.mark.parametrize(
    ("documents", "tokens", "query", "once", "per_chunk"),
    [
        (80, 350, 30, 1, 1),
        (150, 350, 30, 2, 2),
        (100, 800, 20, 2, 2),
        (100, 950, 40, 2, 3),
        (100, 1200, 40, 3, 3),
        (250, 400, 50, 3, 3),
        (100, 4000, 40, 9, 9),
        (100, 450, 50, 1, 1),
        (101, 450, 50, 2, 2),
        (1, 451, 50, 1, 1),
    ],
)
def test_units_of_worked_examples(
    documents: int, tokens: int, query: int, once: int, per_chunk: int
) -> None:
    """Both readings give the search units of the worked examples."""
    assert count_units(query, [tokens] * documents, Reading.QUERY_ONCE) == once
    assert count_units(query, [tokens] * documents, Reading.QUERY_PER_CHUNK) == per_chunk


def test_chunks_change_at_500_tokens() -> None:
    """A document with its query of 500 tokens is one chunk, of 501 two."""
    assert [count_chunks(100, tokens) for tokens in (400, 401, 900, 901)] == [1, 2, 2, 3]


def test_chunks_of_a_query_over_500_tokens_stay_finite() -> None:
    """A query that leaves a chunk no room counts one chunk per document token, not infinity."""
    assert count_chunks(600, 10, Reading.QUERY_PER_CHUNK) == 10
    assert count_chunks(600, 0, Reading.QUERY_PER_CHUNK) == 1


def test_no_documents_cost_nothing() -> None:
    """Zero documents are zero units."""
    assert count_units(10, []) == 0
