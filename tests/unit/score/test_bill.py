"""The server's bill against our ledger, pair by pair, under every fault that the server knows."""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rerank_jobs.config import Endpoint, Ledger, Secret
from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.faults import Faults, Latency, Rule
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.kinds import KINDS
from rerank_jobs.endpoint.limits import RateLimit
from rerank_jobs.endpoint.stats import Stats, digest_pair
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.ledger.sealing import SegmentWriter
from rerank_jobs.model import Request, ScoreTotals
from rerank_jobs.score import DIALECTS, ScoreSettings, open_client, score_requests
from rerank_jobs.storage import LocalStore
from tests.unit.score.fakes import DOCUMENT, KEY, QUERY, make_request
from tests.unit.score.simulation import simulate, wall_clock

REQUESTS, PASSAGES = 20, 4
FOLDER, PLAN = "_all/run/plan/00000", "plan"
ENDPOINT = Endpoint(
    url="https://api.test/api/v1",
    requests_per_minute=6000,
    max_concurrency=6,
    patience_seconds=3600,
)
RUNS = 40


@dataclass(frozen=True, slots=True)
class Books:
    """What both sides say after everything has its outcome."""

    stats: Stats
    scored: Counter[bytes]
    failed: int
    ledger_usd: float
    totals: ScoreTotals
    shown: str


def list_left(store: LocalStore) -> Iterator[Request]:
    """Yield the planned requests without the passages that are sealed."""
    sealed = load_segments(store, FOLDER, PLAN).keys()
    for number in range(REQUESTS):
        request = make_request(number, PASSAGES)
        left = [p for p in request.passages if request.query_key + p.key not in sealed]
        if left:
            yield Request(number, request.query_key, request.query, tuple(left), 1)


async def run_to_the_end(
    store: LocalStore, faults: Faults, limit: RateLimit | None = None
) -> Books:
    """Run again after every stop, each time under a new claim, until nothing is left."""
    loop = asyncio.get_running_loop()
    app = create_app(
        scorer=InstantScorer(),
        faults=faults,
        limit=limit,
        clock=loop.time,
        wall_clock=wall_clock,
        sleep=asyncio.sleep,
    )
    totals, shown = ScoreTotals(), ""
    for epoch in range(1, RUNS):
        client = open_client(ENDPOINT, Secret(KEY), transport=httpx.ASGITransport(app))
        ledger = SegmentWriter(store, FOLDER, epoch, PLAN, Ledger(max_unsaved_replies=5))
        async with ledger:
            result = await score_requests(
                list_left(store),
                settings=ScoreSettings.from_endpoint(ENDPOINT, None),
                client=client,
                dialect=DIALECTS["openrouter"],
                accept=ledger.accept,
                rng=random.Random(epoch),
                wall_clock=wall_clock,
            )
        await client.aclose()
        totals = totals.plus(result.totals)
        shown += f"{result!r} {client!r} {ledger!r}"
        if result.stop is None:
            break
        shown += "".join(traceback.format_exception(result.stop))
    return read_books(store, app.state.stats, totals, shown)


def read_books(store: LocalStore, stats: Stats, totals: ScoreTotals, shown: str) -> Books:
    """Read our ledger as pairs named like the server's."""
    names = {
        request.query_key + passage.key: digest_pair(request.query, passage.text)
        for request in (make_request(number, PASSAGES) for number in range(REQUESTS))
        for passage in request.passages
    }
    loaded = load_segments(store, FOLDER, PLAN)
    scored: Counter[bytes] = Counter()
    failed = 0
    for row in loaded.pairs.to_pylist():
        if row["error"] is None:
            scored[names[row["query_key"] + row["passage_key"]]] += 1
        else:
            failed += 1
    return Books(stats, scored, failed, loaded.spent.cost_usd, totals, shown)


def check(books: Books) -> None:
    """Every pair was billed once for its score, and once for each time its scores were lost."""
    stats, totals = books.stats, books.totals
    lost = Counter(stats.pairs_spoiled)
    assert Counter(stats.pairs) == books.scored + lost
    assert books.scored.total() + books.failed == REQUESTS * PASSAGES
    assert set(books.scored.values()) <= {1}
    # In dollars: what was lost is known as waste, or bounded as unknown.
    known = books.ledger_usd + totals.wasted_usd
    assert known - 1e-9 <= stats.cost_usd <= known + totals.unknown_usd + 1e-9
    # No reply that could be used was sent again: lost ones are those that we count as such.
    assert stats.spoiled <= totals.lost + totals.malformed + totals.retries


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_bill_is_the_ledger_and_what_was_lost(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under this fault the bill equals the ledger, by pair, plus replies that never came through.

    The fault strikes a quarter of the requests, ten times at most. No key, query or document
    shows in a log of any level, a repr, a traceback or a ledger file.
    """
    caplog.set_level(logging.DEBUG)
    rule = Rule(kind=kind, share=0.25, count=10, wait_seconds=None)
    faults = Faults(seed=3, latency=Latency(low=0.02, high=0.12), rules=[rule])
    books = simulate(run_to_the_end(LocalStore(str(tmp_path)), faults))
    check(books)
    shown = (books.shown + caplog.text).encode()
    shown += b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [canary for canary in (KEY, QUERY, DOCUMENT) if canary.encode() in shown] == []


@pytest.mark.parametrize("seed", range(4))
def test_the_bill_adds_up_when_everything_happens_at_once(seed: int, tmp_path: Path) -> None:
    """Twelve faults together, an outage and a strict limit: the same holds."""
    kinds = random.Random(seed).sample(sorted(KINDS), 12)
    rules = [Rule(kind=kind, share=0.05, count=6) for kind in kinds]
    rules.append(Rule(kind="502_provider_unavailable", from_seconds=2, until_seconds=62))
    faults = Faults(seed=seed, latency=Latency(median=0.1, sigma=0.6), rules=rules)
    limit = RateLimit(requests=20, window_seconds=6.0, kind="counting")
    check(simulate(run_to_the_end(LocalStore(str(tmp_path)), faults, limit)))
