"""Requests to score, and an endpoint that answers by script behind httpx's transport seam."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.model import Failed, Outcome, Passage, Request
from rerank_jobs.score import (
    DIALECTS,
    Progress,
    ScoreResult,
    ScoreSettings,
    open_client,
    score_requests,
)
from rerank_jobs.score.judge import Shorten
from tests.unit.score.simulation import simulate, wall_clock

QUERY = "canary-query"
DOCUMENT = "canary-document"
KEY = "sk-or-v1-canary-key"

REMOTE = Endpoint(url="https://api.test/v1", requests_per_minute=60_000, max_concurrency=8)


def make_request(number: int, passages: int = 3, units: int = 1) -> Request:
    """Return a request whose query names its number."""
    return Request(
        number=number,
        query_key=number.to_bytes(16, "big"),
        query=f"{QUERY}-{number}",
        passages=tuple(
            Passage(index.to_bytes(16, "big"), f"{DOCUMENT}-{number}-{index}", 1, 8)
            for index in range(passages)
        ),
        search_units=units,
    )


def make_requests(count: int) -> Iterator[Request]:
    """Yield ``count`` requests of three passages."""
    return (make_request(number) for number in range(count))


def reply_body(n: int, **changes: Any) -> bytes:
    """Return a valid reply for ``n`` documents, best last, with ``changes`` to its top level."""
    body = {
        "id": "gen-1",
        "model": "cohere/rerank-v3.5",
        "provider": "Cohere",
        "results": [
            {"index": i, "relevance_score": (i + 1) / (n + 1), "document": {"text": DOCUMENT}}
            for i in reversed(range(n))
        ],
        "usage": {"search_units": 1, "total_tokens": 9, "cost": 0.001},
    }
    return orjson.dumps({**body, **changes})


def ok(n: int = 3) -> httpx.Response:
    """Return a valid reply."""
    return httpx.Response(200, content=reply_body(n))


def refuse(
    status: int, metadata: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Return OpenRouter's error answer, whose message echoes the query."""
    error = {"code": status, "message": f"about {QUERY}", "metadata": metadata or {}}
    return httpx.Response(status, json={"error": error}, headers=headers)


Script = Callable[["FakeEndpoint", int], httpx.Response | Exception]
"""From the endpoint and a request's number to its answer."""


@dataclass(slots=True)
class FakeEndpoint(httpx.AsyncBaseTransport):
    """Answers by ``script`` after a jittered latency and notes when what arrived.

    ``documents`` are those of the request that the script answers; ``latency`` is the sum of all.
    """

    script: Script
    low: float
    high: float
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    tries: Counter[int] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    authorization: set[str | None] = field(default_factory=set)
    documents: list[str] = field(default_factory=list)
    latency: float = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)
        number = int(body["query"].rsplit("-", 1)[1])
        self.authorization.add(request.headers.get("authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            latency = self.rng.uniform(self.low, self.high)
            self.latency += latency
            await asyncio.sleep(latency / 2)
            self.arrivals.append((self.now, number))
            self.tries[number] += 1
            self.documents = body["documents"]
            answer = self.script(self, number)
            await asyncio.sleep(latency / 2)
        finally:
            self.in_flight -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def now(self) -> float:
        """Seconds since the simulation began."""
        return asyncio.get_running_loop().time()


@dataclass(slots=True)
class SlidingWindow:
    """A strict server: at most ``limit`` accepted arrivals in any ``seconds``."""

    limit: int
    seconds: float
    accepted: deque[float] = field(default_factory=deque)
    total: list[float] = field(default_factory=list)
    refused: int = 0

    def admit(self, now: float) -> bool:
        while self.accepted and self.accepted[0] <= now - self.seconds:
            self.accepted.popleft()
        if len(self.accepted) >= self.limit:
            self.refused += 1
            return False
        self.accepted.append(now)
        self.total.append(now)
        return True


@dataclass(slots=True)
class Run:
    """What one simulated run left behind."""

    result: ScoreResult
    outcomes: list[Outcome]
    progress: list[Progress]
    endpoint: FakeEndpoint
    ended_at: float

    @property
    def failed(self) -> list[Failed]:
        """The outcomes that are failures."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failed)]

    @property
    def numbers(self) -> list[int]:
        """The numbers of all requests with an outcome."""
        return sorted(outcome.request.number for outcome in self.outcomes)


async def score(
    script: Script,
    requests: Iterable[Request],
    *,
    endpoint: Endpoint = REMOTE,
    allowance_usd: float | None = None,
    settings: ScoreSettings | None = None,
    accept: Callable[[Outcome], None] | None = None,
    accept_seconds: float = 0.0,
    shorten: Shorten | None = None,
    stop: asyncio.Event | None = None,
    low: float = 0.02,
    high: float = 0.12,
    seed: int = 7,
) -> Run:
    """Score ``requests`` against a scripted endpoint in the running loop."""
    fake = FakeEndpoint(script, low, high, random.Random(seed))
    client = open_client(endpoint, Secret(KEY), transport=fake)
    outcomes: list[Outcome] = []
    progress: list[Progress] = []

    async def take(outcome: Outcome) -> None:
        if accept_seconds:
            await asyncio.sleep(accept_seconds)
        if accept is not None:
            accept(outcome)
        outcomes.append(outcome)

    result = await score_requests(
        requests,
        settings=settings or ScoreSettings.from_endpoint(endpoint, allowance_usd),
        client=client,
        dialect=DIALECTS["openrouter"],
        accept=take,
        shorten=shorten,
        observe=progress.append,
        stop=stop,
        rng=random.Random(11),
        wall_clock=wall_clock,
    )
    await client.aclose()
    return Run(result, outcomes, progress, fake, fake.now)


def run(script: Script, requests: Iterable[Request], **options: Any) -> Run:
    """``score`` on simulated time."""
    return simulate(score(script, requests, **options))
