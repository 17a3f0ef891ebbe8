"""The schedule: what is reused, what is sent, and what it costs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.errors import BudgetStop, StateError
from rerank_jobs.job import RunResult, plan_partition, preview_partition, run_partition
from rerank_jobs.plan.packing import search_units
from rerank_jobs.plan.queries import Queries, Rules, price_queries
from tests.builders import make_job, make_rows, read_output, write_rows
from tests.unit.plan.kit import build

QUERIES = st.lists(
    st.lists(st.tuples(st.integers(1, 120), st.booleans(), st.booleans()), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
)


def arrays(queries: list[list[tuple[int, bool, bool]]]) -> tuple[Queries, npt.NDArray[Any]]:
    """Return some queries, their passages of 5 tokens a chunk, and which scores are known."""
    flat = [item for query in queries for item in query]
    chunks = np.array([item[0] for item in flat], dtype=np.int64)
    counted = np.array([item[1] for item in flat])
    known = np.array([item[2] for item in flat]) & counted
    starts = np.cumsum([0, *map(len, queries)])[:-1].astype(np.int64)
    tokens = chunks * 5
    return Queries(chunks, tokens, np.full(len(chunks), 3), counted, starts), known


@given(QUERIES)
def test_cheapest_reuses_exactly_where_it_lowers_the_price(
    queries: list[list[tuple[int, bool, bool]]],
) -> None:
    """Per query cheapest costs the lesser of all and missing; it reuses only to save a unit."""
    passages, known = arrays(queries)
    chunks, counted = passages.chunks, passages.counted
    use, send, price = price_queries(passages, known, "cheapest", Rules())
    bounds = [*passages.starts.tolist(), len(chunks)]
    total = 0
    for number, (first, last) in enumerate(pairwise(bounds)):
        part = slice(first, last)
        whole = search_units(int(chunks[part][counted[part]].sum()))
        missing = search_units(int(chunks[part][counted[part] & ~known[part]].sum()))
        assert bool(use[number]) == (missing < whole)
        assert send[part].sum() == (counted[part] & ~(known[part] & use[number])).sum()
        total += min(whole, missing)
    assert price.bound_units == price.missing_units == total <= price.distinct_units


@given(QUERIES)
def test_strict_always_reuses_and_off_never(
    queries: list[list[tuple[int, bool, bool]]],
) -> None:
    """Strict sends only what is not known; off sends all that counts."""
    passages, known = arrays(queries)
    _, send, price = price_queries(passages, known, "strict", Rules())
    assert (send == (passages.counted & ~known)).all()
    assert price.reused == known.sum()
    _, send, price = price_queries(passages, known, "off", Rules())
    assert (send == passages.counted).all()
    assert price.reused == 0


@given(QUERIES)
def test_where_tokens_are_paid_cheapest_reuses_whatever_is_known(
    queries: list[list[tuple[int, bool, bool]]],
) -> None:
    """Each score that is reused saves its tokens, so that none is paid twice."""
    passages, known = arrays(queries)
    _, send, price = price_queries(passages, known, "cheapest", Rules(per_token=True))
    assert (send == (passages.counted & ~known)).all()
    assert price.distinct_tokens == int(passages.tokens[passages.counted].sum())


def grow(folder: Path, extra: int, **parts: Any) -> RunResult:
    """Publish a table of 6 queries x 10, then run it with more candidates for each query."""
    rows = make_rows(6, 10)
    write_rows(folder / "candidates.parquet", rows)
    run_partition(make_job(folder, **parts))
    more = [
        {**row, "document_id": f"new-{number}", "document": f"{row['document']} {number} anew"}
        for number, row in enumerate(rows[: 10 * extra])
    ]
    write_rows(folder / "candidates.parquet", rows + more)
    return run_partition(make_job(folder, **parts))


def test_under_cheapest_a_grown_query_is_sent_whole_for_the_same_money(tmp_path: Path) -> None:
    """Where one unit pays for all of a query, its ranking is of one day."""
    result = grow(tmp_path, 1, reuse={"mode": "cheapest"})
    assert result.totals.search_units == result.promise.search_units > 0
    assert result.generation is not None
    assert result.generation.number == 2
    statuses = {
        query: {
            r["rerank_status"]
            for r in read_output(make_job(tmp_path)).to_pylist()
            if r["query_id"] == query
        }
        for query in ("q0000", "q0001", "q0002", "q0003", "q0004", "q0005")
    }
    assert all(len(found) == 1 for found in statuses.values())


def test_under_strict_only_new_passages_are_sent(tmp_path: Path) -> None:
    """Strict pays for the new candidates alone; the old scores are reused and marked so."""
    result = grow(tmp_path, 1, reuse={"mode": "strict"})
    assert result.totals.passages_scored == 10
    assert result.promise.passages_reused == 60
    assert result.statuses["reused"] == 60
    assert result.statuses["scored"] == 10


def test_off_reuses_nothing(tmp_path: Path) -> None:
    """With reuse off every pair is sent again under the new plan."""
    result = grow(tmp_path, 1, reuse={"mode": "off"})
    assert result.totals.passages_scored == 70
    assert result.promise.passages_reused == 0


def test_a_library_file_that_goes_while_it_is_read_is_told(tmp_path: Path) -> None:
    """The table is not blamed for it: to run again finds the newer library."""
    gone = f"{tmp_path}/library/{'a' * 32}/scores-0123456789abcdef.parquet"
    library = f"SELECT * FROM read_parquet('{gone}')"
    with pytest.raises(StateError, match=r"score library was removed or damaged .* run again"):
        build(tmp_path, make_rows(2, 3), {"library": library})


def test_a_sample_is_paid_once(tmp_path: Path) -> None:
    """A sample publishes nothing; the full run then sends only the other queries."""
    write_rows(tmp_path / "candidates.parquet", make_rows(12, 5))
    job = make_job(tmp_path)
    sample = run_partition(job, limit_queries=4)
    assert sample.generation is None
    assert sample.totals.requests == 4
    assert not Path(job.output_root).exists()
    assert run_partition(job, limit_queries=4).totals.requests == 0
    whole = run_partition(job)
    assert whole.totals.requests == 8
    assert whole.statuses == {"scored": 40, "reused": 20, "single": 0, "failed": 0}


def test_another_partition_reuses_what_was_paid(tmp_path: Path) -> None:
    """Scores are named by content: tomorrow's equal pairs cost nothing and come out the same."""
    for day in ("2026-11-21", "2026-11-22"):
        write_rows(tmp_path / "candidates" / f"ds={day}" / "a.parquet", make_rows(5, 4))
    job = make_job(
        tmp_path,
        input={
            "path": "candidates/{partition}",
            "columns": {"query_id": "query_id", "first_stage_score": "first_stage_score"},
        },
        partition={"template": "ds={key}"},
    )
    first = run_partition(job, "2026-11-21")
    second = run_partition(job, "2026-11-22")
    assert (first.totals.requests, second.totals.requests) == (5, 0)
    assert second.statuses["reused"] == 20
    one = read_output(job, "ds=2026-11-21").drop(["rerank_status"])
    assert read_output(job, "ds=2026-11-22").drop(["rerank_status"]).equals(one)


def test_a_plan_over_budget_freezes_nothing(tmp_path: Path) -> None:
    """Allowances over the budget stop before anything is written that a run could resume."""
    write_rows(tmp_path / "candidates.parquet", make_rows(5, 4))
    endpoint = {"url": "http://127.0.0.1:9/api/v1"}
    job = make_job(tmp_path, endpoint=endpoint, budget={"max_usd": 0.005})
    with pytest.raises(BudgetStop, match=r"over budget.max_usd \$0.005"):
        plan_partition(job)
    assert not list(Path(job.state_root).glob("_all/plan/*"))
    assert not list(Path(job.state_root).glob("scratch-*"))


def test_a_preview_promises_what_the_plan_freezes(tmp_path: Path) -> None:
    """Preview and plan agree on every figure and the id; the preview leaves no text behind."""
    write_rows(tmp_path / "candidates.parquet", make_rows(5, 4))
    job = make_job(tmp_path)
    preview = preview_partition(job)
    assert not list(Path(job.state_root).glob("_all/**/*"))
    planned = plan_partition(job)
    assert (preview.plan_id, preview.promise) == (planned.plan_id, planned.promise)
