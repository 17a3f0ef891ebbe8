"""Listwise models: lists are sent as they are, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.errors import JobError
from rerank_jobs.job import plan_partition, run_partition
from tests.builders import make_job, make_rows, write_rows
from tests.unit.plan.kit import Built, build, make_row

OFF = {"mode": "off"}


def plan(folder: Path, rows: list[dict[str, Any]], most: int = 1000, **parts: Any) -> Built:
    """Build the plan of a listwise model."""
    return build(folder, rows, {"listwise": True, "max_passages": most}, **{"reuse": OFF, **parts})


def test_each_list_is_one_request(tmp_path: Path) -> None:
    """250 candidates are one request of three units, not three requests of one."""
    built = plan(tmp_path, make_rows(3, 250))
    assert sorted(len(passages) for passages in built.requests.values()) == [250] * 3
    promise = built.draft.promise
    assert (promise.requests, promise.search_units) == (3, 9)


@pytest.mark.parametrize("mode", ["cheapest", "strict"])
def test_reuse_is_refused(mode: str, tmp_path: Path) -> None:
    """A score of another list is no score of this one."""
    with pytest.raises(JobError, match=r'is listwise: .* set reuse\.mode: "off"'):
        plan(tmp_path, make_rows(2, 3), reuse={"mode": mode})


def test_a_query_in_two_groups_is_refused(tmp_path: Path) -> None:
    """Two lists of one query cannot share a request; single candidates are not sent, so count."""
    rows = [
        make_row("lamp", f"text {number}", group=group, number=number)
        for group in "ab"
        for number in range(3)
    ]
    with pytest.raises(JobError, match="1 queries stand in more than one group"):
        plan(tmp_path, rows)
    (tmp_path / "alone").mkdir()
    assert plan(tmp_path / "alone", rows[:4]).draft.promise.requests == 1


def test_windows_are_refused(tmp_path: Path) -> None:
    """A document over the context is an error, unless it is truncated."""
    rows = make_rows(2, 3)
    rows[0]["document"] = " ".join(["lamp"] * 3000)
    context = {"tokens": 256, "overlap_tokens": 32}
    with pytest.raises(JobError, match="1 documents are longer than the context"):
        plan(tmp_path, rows, context=context)
    (tmp_path / "cut").mkdir()
    built = plan(tmp_path / "cut", rows, context={**context, "long_documents": "truncate"})
    assert built.draft.promise.requests == 2


def test_a_list_that_is_no_single_request_is_refused(tmp_path: Path) -> None:
    """More candidates than a request holds are an error that says how many."""
    with pytest.raises(JobError, match="one has 33 passages, at most 32 fit"):
        plan(tmp_path, make_rows(2, 33), most=32)
    (tmp_path / "sized").mkdir()
    context = {"tokens": 256, "overlap_tokens": 32, "scope": "request"}
    with pytest.raises(JobError, match=r"one has 20 passages, .* tokens, at most"):
        plan(tmp_path / "sized", make_rows(2, 20), context=context)


def test_the_job_file_may_say_that_a_model_is_listwise(tmp_path: Path) -> None:
    """endpoint.listwise decides over the dialect's word, and is a part of the plan's identity."""
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 120))
    with pytest.raises(JobError, match="is listwise"):
        plan_partition(make_job(tmp_path, endpoint={"listwise": True}))
    pairwise = plan_partition(make_job(tmp_path, reuse=OFF))
    job = make_job(tmp_path, endpoint={"listwise": True}, reuse=OFF)
    assert plan_partition(job).plan_id != pairwise.plan_id
    result = run_partition(job)
    assert (pairwise.promise.requests, result.promise.requests) == (4, 2)
    assert result.statuses["scored"] == 240
