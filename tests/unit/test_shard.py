"""A shard: nothing paid twice, nothing paid lost, and nothing written by whoever lost it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import Busy, CreditStop, Fenced
from rerank_jobs.job import open_roots, plan_partition
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.ledger.spending import read_unsealed
from rerank_jobs.parts import read_done
from rerank_jobs.plan.frozen import Plan, run_folder
from rerank_jobs.remaining import read_requests
from rerank_jobs.score import Progress
from rerank_jobs.shard import Bounds, ShardResult, score_shard
from rerank_jobs.storage import Store, read_json
from tests.builders import make_job, make_rows, write_rows

QUERIES, CANDIDATES = 12, 6
KEY = "sk-or-v1-canarykey"
ME = make_airflow_owner("dag", "run", "score", 0)
SOMEBODY = make_airflow_owner("dag", "another run", "score", 0)


@dataclass(slots=True)
class Api(httpx.AsyncBaseTransport):
    """Answers with a score for each pair and counts what it was asked; a step may intervene."""

    step: Callable[[int], httpx.Response | None] = lambda _: None
    pairs: list[tuple[str, str]] = field(default_factory=list)
    paid: list[tuple[str, str]] = field(default_factory=list)
    calls: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)
        pairs = [(body["query"], text) for text in body["documents"]]
        self.pairs += pairs
        self.calls += 1
        if (answer := self.step(self.calls)) is not None:
            return answer
        self.paid += pairs
        results = [
            {"index": index, "relevance_score": score_pair(*pair)}
            for index, pair in enumerate(pairs)
        ]
        usage = {"search_units": 1, "cost": 0.001}
        return httpx.Response(
            200, json={"id": "gen", "model": "m", "results": results, "usage": usage}
        )


def score_pair(query: str, text: str) -> float:
    return hashlib.sha256(f"{query}|{text}".encode()).digest()[0] / 255


def refuse_from(call: int, status: int) -> Callable[[int], httpx.Response | None]:
    """Answer the n-th call and all later ones with an error."""

    def step(number: int) -> httpx.Response | None:
        if number < call:
            return None
        error = {"code": status, "message": "no", "metadata": {}}
        return httpx.Response(status, json={"error": error})

    return step


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    write_rows(tmp_path / "candidates.parquet", make_rows(QUERIES, CANDIDATES))
    endpoint = {
        "url": "https://api.test/v1",
        "requests_per_minute": 600_000,
        "max_concurrency": 2,
        "patience_seconds": 0,
    }
    return make_job(tmp_path, endpoint=endpoint, failures={"max_failed_fraction": 1})


@pytest.fixture
def plan(job: Job) -> Plan:
    planned = plan_partition(job)
    assert planned.plan is not None
    return planned.plan


@pytest.fixture
def store(job: Job) -> Store:
    return open_roots(job).state


@pytest.fixture
def folder(plan: Plan) -> str:
    return run_folder(plan.partition, plan.plan_id, 0)


Score = Callable[..., ShardResult]


@pytest.fixture
def score(job: Job, plan: Plan, store: Store) -> Score:
    """Score the only shard against an API."""

    def run(api: Api, **options: Any) -> ShardResult:
        arguments = {"owner": ME, **options}
        return score_shard(job, plan, 0, store=store, transport=lambda: api, **arguments)

    return run


def test_each_pair_is_sent_once_and_sealed(
    score: Score, plan: Plan, store: Store, folder: str
) -> None:
    """Every distinct pair is paid once, and the ledger holds exactly what was paid."""
    api = Api()
    result = score(api)
    assert len(api.paid) == len(set(api.paid)) == QUERIES * CANDIDATES == plan.shards[0].passages
    loaded = load_segments(store, folder, plan.plan_id)
    assert loaded.pairs.num_rows == len(api.paid)
    assert loaded.spent.cost_usd == pytest.approx(0.001 * api.calls)
    assert result.part == read_done(store, folder)


def test_a_done_shard_sends_nothing_even_where_another_owner_is_at_work(
    score: Score, store: Store, folder: str
) -> None:
    """A finished shard is returned without a claim, to whoever asks."""
    first = score(Api())
    acquire(store, folder, SOMEBODY).beat()
    api = Api()
    assert score(api).part == first.part
    assert api.calls == 0


def test_a_shard_in_anothers_hands_sends_nothing(score: Score, store: Store, folder: str) -> None:
    """While another owner is alive, this one is busy, and pays nothing."""
    acquire(store, folder, SOMEBODY).beat()
    api = Api()
    with pytest.raises(Busy):
        score(api)
    assert api.calls == 0


def test_a_stopped_shard_goes_on_where_it_stopped(
    score: Score, plan: Plan, store: Store, folder: str
) -> None:
    """What was paid before the stop is not sent again, and all is paid in the end."""
    api = Api(refuse_from(5, 402))
    with pytest.raises(CreditStop):
        score(api)
    assert read_done(store, folder) is None
    assert load_segments(store, folder, plan.plan_id).pairs.num_rows == len(api.paid) > 0
    again = Api()
    score(again)
    assert not set(again.pairs) & set(api.paid)
    assert len(again.paid) + len(api.paid) == QUERIES * CANDIDATES


def test_an_error_of_ours_in_the_middle_loses_no_reply(
    score: Score, plan: Plan, store: Store, folder: str
) -> None:
    """Whatever breaks the run, all that the endpoint was paid for is sealed."""
    api = Api()

    def break_down(_: object) -> None:
        raise RuntimeError("an observer of ours")

    with pytest.raises(RuntimeError, match="an observer"):
        score(api, observe=break_down)
    assert load_segments(store, folder, plan.plan_id).pairs.num_rows == len(api.paid) > 0


def test_an_error_of_ours_leaves_a_record_of_what_it_cost(
    score: Score, store: Store, folder: str
) -> None:
    """What a broken run has of unknown fate counts as spent in the next one."""

    def lose(call: int) -> None:
        if call > 1:
            raise httpx.ReadTimeout("lost")

    def break_down(progress: Progress) -> None:
        if progress.unknown_usd:
            raise RuntimeError("an observer of ours")

    with pytest.raises(RuntimeError, match="an observer"):
        score(Api(lose), observe=break_down)
    record = read_json(store, f"{folder}/run-00000001.json")
    assert record["stop"] == "RuntimeError"
    assert record["totals"]["lost"] > 0
    assert read_unsealed(record) == record["totals"]["unknown_usd"] > 0
    assert read_unsealed({**record, "unsealed_usd": 1.0}) > 1


def test_who_lost_the_shard_seals_what_is_paid_and_writes_nothing_else(
    score: Score, plan: Plan, store: Store, folder: str
) -> None:
    """A run that was taken over is fenced: its replies count, its part and its record do not."""

    def take_over(call: int) -> None:
        if call == 3:
            acquire(store, folder, ME)

    api = Api(take_over)
    with pytest.raises(Fenced):
        score(api)
    names = [entry.name.removeprefix(f"{folder}/") for entry in store.entries(folder)]
    assert not [name for name in names if name.startswith(("part-", "done"))]
    assert load_segments(store, folder, plan.plan_id).pairs.num_rows == len(api.paid)
    successor = Api()
    score(successor)
    assert not set(successor.pairs) & set(api.paid)


def test_a_torn_segment_costs_only_its_own_pairs(
    score: Score, plan: Plan, store: Store, folder: str
) -> None:
    """After damage to one segment the next run sends what that one held and nothing else."""
    for last in (4, 8):
        with pytest.raises(CreditStop):
            score(Api(refuse_from(last, 402)))
    one, two = load_segments(store, folder, plan.plan_id).segments
    store.put(two, store.read(two)[:-30])
    kept = load_segments(store, folder, plan.plan_id)
    assert (kept.segments, kept.torn) == ((one,), (two,))
    api = Api()
    score(api)
    assert len(api.paid) == QUERIES * CANDIDATES - kept.pairs.num_rows


def test_refused_passages_are_sent_again_only_on_request(
    score: Score, store: Store, folder: str
) -> None:
    """A permanent refusal is kept like a score; ``retry_failed`` sends it once more."""
    refusing = Api()

    def refuse_two(_call: int) -> httpx.Response | None:
        queries = list(dict.fromkeys(query for query, _ in refusing.pairs))
        error = {"code": 400, "message": "no", "metadata": {"error_type": "invalid_prompt"}}
        refused = refusing.pairs[-1][0] in queries[3:5]
        return httpx.Response(400, json={"error": error}) if refused else None

    refusing.step = refuse_two
    first = score(refusing)
    assert first.part.statuses["failed"] == 2 * CANDIDATES
    api = Api()
    assert score(api).part == first.part
    assert api.calls == 0
    healed = score(api, bounds=Bounds(retry_failed=True))
    assert (api.calls, len(api.paid)) == (2, 2 * CANDIDATES)
    assert healed.part.statuses == {
        "scored": QUERIES * CANDIDATES,
        "reused": 0,
        "single": 0,
        "failed": 0,
    }
    assert read_done(store, folder) == healed.part


def test_requests_hold_only_what_is_not_sealed(
    score: Score, plan: Plan, store: Store, folder: str
) -> None:
    """Planned requests come without their sealed passages, in order, each under its number."""
    planned = list(read_requests(store, plan.shards[0], load_segments(store, folder)))
    assert [request.number for request in planned] == sorted(r.number for r in planned)
    assert sum(len(request.passages) for request in planned) == QUERIES * CANDIDATES
    with pytest.raises(CreditStop):
        score(Api(refuse_from(5, 402)))
    loaded = load_segments(store, folder, plan.plan_id)
    left = list(read_requests(store, plan.shards[0], loaded))
    sealed = loaded.keys()
    assert 0 < len(left) < len(planned)
    assert not [1 for r in left for p in r.passages if r.query_key + p.key in sealed]
    assert {request.number for request in left} < {request.number for request in planned}


def test_neither_text_nor_key_is_left_by_sending(score: Score, store: Store, folder: str) -> None:
    """Segments, claims, the run's record and done.json hold no text and no API key."""
    api = Api()
    score(api)
    texts = {text.encode() for pair in api.pairs for text in pair} | {KEY.encode()}
    names = [
        entry.name
        for entry in store.entries(folder)
        if not entry.name.rpartition("/")[2].startswith(("work.", "part-"))
    ]
    assert len(names) >= 5
    for name in names:
        data = store.read(name)
        assert not [text for text in texts if text in data], name
