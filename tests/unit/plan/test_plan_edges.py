"""Plans at the edges: huge queries, huge and tiny lists, limits on a whole request."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank_jobs.job import run_partition
from rerank_jobs.plan.tokens import estimate_text
from tests.builders import WORDS, make_job, make_rows, write_rows
from tests.unit.plan.kit import build, make_ambiguous_text, make_row

LONG_QUERY = " ".join(f"{word} {number}" for number in range(60) for word in WORDS)
LONG_TEXT = " ".join(f"{word} {number * 7}" for number in range(120) for word in WORDS)


def test_a_query_over_2048_tokens_counts_as_2048(tmp_path: Path) -> None:
    """The provider cuts it there: each passage keeps 4,093 - 2,048 tokens, no window more."""
    assert estimate_text(LONG_QUERY) > 2048
    rows = [make_row(LONG_QUERY, LONG_TEXT), make_row(LONG_QUERY, "short", number=1)]
    built = build(tmp_path, rows)
    assert {row["windows"] for row in built.passages} > {1}
    for row in built.passages:
        assert row["query"] == LONG_QUERY  # it is sent whole: where to cut is the provider's choice
        assert row["tokens"] == 2048 + estimate_text(row["text"])
        assert estimate_text(row["text"]) <= 4093 - 2048
    short = next(row for row in built.passages if row["text"] == "short")
    assert short["chunks"] == -(-short["tokens"] // 500)


def test_a_query_over_2048_tokens_is_scored(tmp_path: Path) -> None:
    """A table of such a query comes back whole."""
    rows = [make_row(LONG_QUERY, LONG_TEXT), make_row(LONG_QUERY, "short", number=1)]
    write_rows(tmp_path / "candidates.parquet", rows)
    assert run_partition(make_job(tmp_path)).statuses["scored"] == 2


@pytest.mark.parametrize("tokens", [64, 512, 32_768])
def test_a_huge_query_leaves_passages_half_of_any_context(tokens: int, tmp_path: Path) -> None:
    """Whatever the context, a passage beside a huge query has half of it, less 3 tokens."""
    rows = [make_row(LONG_QUERY * 4, LONG_TEXT), make_row(LONG_QUERY * 4, "short", number=1)]
    built = build(tmp_path, rows, context={"tokens": tokens, "overlap_tokens": 8})
    sizes = [estimate_text(row["text"]) for row in built.passages]
    assert max(sizes) <= tokens - tokens // 2 - 3
    assert built.passages[0]["tokens"] == sizes[0] + min(
        estimate_text(LONG_QUERY * 4), max(2048, tokens // 2)
    )


def test_thousands_of_candidates_of_one_query(tmp_path: Path) -> None:
    """2,345 candidates are 24 requests of a unit each, and every one of them is scored."""
    write_rows(tmp_path / "candidates.parquet", make_rows(1, 2345))
    result = run_partition(make_job(tmp_path))
    assert (result.promise.requests, result.promise.search_units) == (24, 24)
    assert result.promise.bound_units == 24
    assert result.statuses == {"scored": 2345, "reused": 0, "single": 0, "failed": 0}


def test_one_candidate_and_none(tmp_path: Path) -> None:
    """A search with one result is free, one without passes through, the others are sent."""
    rows = [
        {
            "search_id": f"s{count}",
            "query": f"lamp {count}",
            "results": [{"document_id": f"d{i}", "document": f"text {i}"} for i in range(count)],
        }
        for count in (0, 1, 2)
    ]
    write_rows(tmp_path / "candidates.parquet", rows)
    columns = {"search_id": "search_id", "candidates": "results"}
    spec = {"path": "candidates.parquet", "layout": "search_log", "columns": columns}
    result = run_partition(make_job(tmp_path, input=spec))
    promise = result.promise
    assert (promise.rows_out, promise.pairs, promise.requests) == (3, 2, 1)
    assert (promise.naive_units, promise.savings["singles"]["search_units"]) == (2, 1)
    assert result.statuses == {"scored": 2, "reused": 0, "single": 1, "failed": 0}


def test_a_table_of_singles_sends_nothing(tmp_path: Path) -> None:
    """Where every query has one candidate the plan is free, and its allowance nothing."""
    rows = [make_row(f"query {number}", "text") for number in range(5)]
    built = build(tmp_path, rows, endpoint={"url": "https://api.test/v1"})
    assert built.passages == []
    promise = built.draft.promise
    assert (promise.requests, promise.tokens, promise.cost_usd) == (0, 0, 0)
    assert promise.allowance_usd == 0
    assert (promise.naive_units, promise.savings["singles"]["search_units"]) == (5, 5)


def test_the_endpoint_says_how_many_passages_a_request_holds(tmp_path: Path) -> None:
    """With 32 passages a request 100 candidates are four requests, the fewest that can be."""
    built = build(tmp_path, make_rows(1, 100), {"max_passages": 32})
    assert sorted(len(passages) for passages in built.requests.values()) == [4, 32, 32, 32]
    promise = built.draft.promise
    assert promise.search_units == promise.bound_units == 4
    assert promise.savings["packing"]["search_units"] == -3


def test_a_whole_request_fits_the_context_where_asked(tmp_path: Path) -> None:
    """Under scope request query and passages together fit; each request costs a unit at least."""
    rows = make_rows(2, 40)
    rows[0]["document"] = LONG_TEXT
    context = {"tokens": 256, "overlap_tokens": 32, "scope": "request"}
    built = build(tmp_path, rows, context=context)
    assert len(built.requests) > 4
    for passages in built.requests.values():
        query = estimate_text(passages[0]["query"])
        assert {row["query"] for row in passages} == {passages[0]["query"]}
        assert query + sum(row["tokens"] - query for row in passages) <= 256 - 3
    promise = built.draft.promise
    assert promise.search_units == promise.requests == len(built.requests)
    assert promise.bound_units <= promise.search_units <= promise.bound_units * 1.25 + 2
    assert promise.savings["packing"]["search_units"] < 0


def test_a_scope_of_requests_is_scored(tmp_path: Path) -> None:
    """Such a table comes back with every document scored."""
    write_rows(tmp_path / "candidates.parquet", make_rows(3, 20))
    result = run_partition(
        make_job(tmp_path, context={"tokens": 128, "scope": "request", "overlap_tokens": 16})
    )
    assert result.statuses["scored"] == 60


def test_both_readings_are_in_the_plan(tmp_path: Path) -> None:
    """100 documents of about 950 tokens beside a query of 40 are 2 units by one, 3 by the other."""
    query = " ".join(WORDS[:28])
    text = make_ambiguous_text(query)
    rows = [make_row(query, f"{text} {number}", number=number) for number in range(100)]
    built = build(tmp_path, rows)
    promise = built.draft.promise
    assert {row["chunks"] for row in built.passages} == {3}
    assert promise.units_by_reading == {"I1": 2, "I2": 3}
    assert promise.search_units == 3


def test_bound_and_units_of_many_mixed_queries(tmp_path: Path) -> None:
    """Queries with documents of many lengths cost the lower bound, query by query."""
    rows = make_rows(6, 150)
    for number, row in enumerate(rows):
        row["document"] = " ".join([row["document"]] * (1 + number % 40))
    built = build(tmp_path, rows)
    promise = built.draft.promise
    assert promise.search_units == promise.bound_units
    chunks = dict.fromkeys({row["query"] for row in rows}, 0)
    for passage in built.passages:
        chunks[passage["query"]] += passage["chunks"]
    assert promise.search_units == sum(-(-total // 100) for total in chunks.values())
