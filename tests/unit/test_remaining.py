"""A plan that waited: what other plans paid for meanwhile is taken over, not paid again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import CreditStop, StateError
from rerank_jobs.job import open_roots, plan_partition
from rerank_jobs.ledger.library import list_scorers, read_library
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.parts import read_done
from rerank_jobs.plan.frozen import Plan, run_folder
from rerank_jobs.shard import ShardResult, score_shard
from rerank_jobs.storage import Store, read_json
from tests.builders import make_job, make_rows, write_rows
from tests.unit.test_shard import KEY, ME, Api, refuse_from

QUERIES, CANDIDATES = 12, 6
ROWS = make_rows(QUERIES, CANDIDATES)
OTHERS = [{**row, "query_id": f"o{row['query_id']}"} for row in make_rows(2, 3, seed=5)]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A table's plan that stopped half way, and the pairs that it had paid for."""

    job: Job
    store: Store
    plan: Plan
    paid: list[tuple[str, str]]

    @property
    def folder(self) -> str:
        return run_folder(self.plan.partition, self.plan.plan_id, 0)

    def pay_elsewhere(self, rows: list[dict[str, Any]]) -> Api:
        """Score another table whole, under a plan of its own."""
        api = Api()
        write_rows(Path(self.job.base) / "candidates.parquet", rows)
        self.score(self.plan_now(), api)
        write_rows(Path(self.job.base) / "candidates.parquet", ROWS)
        return api

    def plan_now(self) -> Plan:
        plan = plan_partition(self.job).plan
        assert plan is not None
        return plan

    def score(self, plan: Plan, api: Api) -> ShardResult:
        return score_shard(self.job, plan, 0, store=self.store, owner=ME, transport=lambda: api)


@pytest.fixture
def waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Waiting:
    """Stop a plan after four replies; ``request.param`` is the mode of reuse."""
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    endpoint = {
        "url": "https://api.test/v1",
        "requests_per_minute": 600_000,
        "max_concurrency": 2,
        "patience_seconds": 0,
    }
    job = make_job(tmp_path, endpoint=endpoint, reuse={"mode": request.param})
    write_rows(tmp_path / "candidates.parquet", ROWS)
    plan = plan_partition(job).plan
    assert plan is not None
    api = Api(refuse_from(5, 402))
    found = Waiting(job, open_roots(job).state, plan, api.paid)
    with pytest.raises(CreditStop):
        found.score(plan, api)
    assert 0 < len(api.paid) < len(ROWS)
    return found


def in_mode(*modes: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("waiting", modes, indirect=True)


@in_mode("strict", "cheapest")
def test_what_a_later_plan_paid_for_is_not_paid_again(waiting: Waiting) -> None:
    """A plan that is resumed sends nothing that another one paid for since it was frozen."""
    other = waiting.pay_elsewhere([*ROWS, *OTHERS])
    resumed = waiting.plan_now()
    assert resumed.plan_id == waiting.plan.plan_id
    api = Api()
    result = waiting.score(resumed, api)
    assert (api.calls, result.totals.requests) == (0, 0)
    before = len(waiting.paid)
    counts = {"scored": before, "reused": len(ROWS) - before, "single": 0, "failed": 0}
    assert result.part.statuses == counts
    assert not set(waiting.paid) & set(other.paid)
    loaded = load_segments(waiting.store, waiting.folder, resumed.plan_id)
    assert loaded.pairs.num_rows == len(ROWS)
    assert loaded.spent.requests == 4
    assert loaded.spent.cost_usd == pytest.approx(0.004)
    record = read_json(waiting.store, f"{waiting.folder}/run-00000002.json")
    assert record["scores_carried"] == len(ROWS) - before


@in_mode("off")
def test_without_reuse_a_plan_pays_for_itself(waiting: Waiting) -> None:
    """Where reuse is off, a plan sends all that it has not paid for itself."""
    waiting.pay_elsewhere([*ROWS, *OTHERS])
    api = Api()
    waiting.score(waiting.plan_now(), api)
    assert len(api.paid) == len(ROWS) - len(waiting.paid)


@in_mode("strict", "cheapest")
def test_scores_are_taken_over_as_the_mode_says(waiting: Waiting) -> None:
    """Of a request that is known in part, strict sends the rest, cheapest the whole."""
    half = [row for row in ROWS if int(row["document_id"][-3:]) < CANDIDATES // 2]
    other = waiting.pay_elsewhere(half)
    api = Api()
    waiting.score(waiting.plan_now(), api)
    left = len(ROWS) - len(waiting.paid)
    known = len(set(other.paid) - set(waiting.paid))
    strict = waiting.job.reuse.mode == "strict"
    assert known > 0
    assert len(api.paid) == (left - known if strict else left)
    assert bool(set(api.paid) & set(other.paid)) is not strict


@in_mode("strict")
def test_a_fresh_plan_looks_nothing_up_again(waiting: Waiting) -> None:
    """A plan knows all of the library that it was made with: a file of it may even be gone."""
    waiting.pay_elsewhere([*ROWS, *OTHERS])
    write_rows(Path(waiting.job.base) / "candidates.parquet", make_rows(3, 3, seed=8))
    plan = waiting.plan_now()
    (scorer,) = list_scorers(waiting.store)
    names = [file.name for file in read_library(waiting.store, scorer).files]
    assert plan.library == tuple(names) != ()
    for name in names:
        waiting.store.delete(name)
    assert waiting.score(plan, Api()).part == read_done(
        waiting.store, run_folder(plan.partition, plan.plan_id, 0)
    )


@in_mode("strict")
def test_a_damaged_library_is_told_before_anything_is_sent(waiting: Waiting) -> None:
    """A resumed plan pays nothing while it cannot know what is paid."""
    waiting.pay_elsewhere([*ROWS, *OTHERS])
    resumed = waiting.plan_now()
    (scorer,) = list_scorers(waiting.store)
    for file in read_library(waiting.store, scorer).files:
        waiting.store.put(file.name, b"damaged")
    api = Api()
    with pytest.raises(StateError, match="is damaged"):
        waiting.score(resumed, api)
    assert api.calls == 0
