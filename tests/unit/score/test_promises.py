"""The scoring engine's promises under trouble that lasts, at full length on simulated time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import pytest

from rerank_jobs.errors import CreditStop, KeyStop, RerankJobsError, RuntimeStop
from rerank_jobs.score import ScoreSettings
from tests.unit.score.fakes import (
    REMOTE,
    FakeEndpoint,
    Run,
    SlidingWindow,
    make_request,
    make_requests,
    ok,
    refuse,
    reply_body,
    run,
    score,
)
from tests.unit.score.simulation import simulate

PER_MINUTE = 1000
PACED = REMOTE.model_copy(
    update={"requests_per_minute": PER_MINUTE, "max_concurrency": 64, "patience_seconds": 3600}
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_thirty_percent_errors_cost_few_sends_and_little_time(seed: int) -> None:
    """30 % random 5xx over 20,000 requests: at most 1.45 sends each, none failed, ended in time.

    In time is within 1.2 times what the necessary sends (1 / 0.7 a request) take at the rate limit.
    """
    rng = random.Random(seed)
    count = 20_000

    def flaky(_endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return refuse(rng.choice([500, 502, 503, 504, 529])) if rng.random() < 0.3 else ok()

    done = run(flaky, make_requests(count), endpoint=PACED)
    totals = done.result.totals
    assert (totals.replies, totals.passages_failed, done.result.stop) == (count, 0, None)
    assert done.endpoint.tries.total() <= 1.45 * count
    assert done.ended_at <= 1.2 * count / 0.7 / PER_MINUTE * 60


@pytest.mark.parametrize("status", [503, 502])
def test_a_total_outage_of_ten_minutes_costs_probes(status: int) -> None:
    """In ten dead minutes only probes leave; all finish after it, with 5 % more sends at most."""
    count = 5000

    def outage(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return refuse(status) if 60 <= endpoint.now < 660 else ok()

    done = run(outage, make_requests(count), endpoint=PACED)
    assert (done.result.totals.replies, done.result.stop) == (count, None)
    # From a second after its begin, when its first failures are known, the outage sees probes only.
    probes = sum(61 <= at < 660 for at, _ in done.endpoint.arrivals)
    assert probes <= 30
    assert done.endpoint.tries.total() <= 1.05 * count + probes
    assert done.ended_at <= 660 + 60 + 60 * count / PER_MINUTE


def test_a_named_wait_holds_for_every_task() -> None:
    """After a 429 with Retry-After 17 nobody sends for 17 s, then never above the paced rate."""
    throttled_at: list[float] = []

    def throttle(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        if endpoint.tries.total() == 500:
            throttled_at.append(endpoint.now)
            return refuse(429, headers={"Retry-After": "17"})
        return ok()

    done = run(throttle, make_requests(2000), endpoint=PACED, low=0.05, high=0.05)
    (began,) = throttled_at
    arrived = [at for at, _ in done.endpoint.arrivals]
    late = [at for at in arrived if at > began + 0.05]
    assert min(late) >= began + 17
    interval = 60 / PER_MINUTE
    for earlier, later in zip(late, late[20:], strict=False):
        assert later - earlier >= (20 - 4) * interval - 1e-6


class Window(Protocol):
    """A server's count of requests."""

    refused: int
    total: list[float]

    def admit(self, now: float) -> bool: ...


@dataclass(slots=True)
class CountingWindow(SlidingWindow):
    """A sliding window in which refused requests count too."""

    def admit(self, now: float) -> bool:
        admitted = SlidingWindow.admit(self, now)
        if not admitted:
            self.accepted.append(now)
        return admitted


@dataclass(slots=True)
class FixedWindow:
    """At most ``limit`` in each window of ``seconds`` from the server's own start."""

    limit: int
    seconds: float
    shift: float = 2.3
    counts: dict[int, int] = field(default_factory=dict)
    total: list[float] = field(default_factory=list)
    refused: int = 0

    def admit(self, now: float) -> bool:
        window = int((now + self.shift) // self.seconds)
        self.counts[window] = self.counts.get(window, 0) + 1
        if self.counts[window] > self.limit:
            self.refused += 1
            return False
        self.total.append(now)
        return True


LIMIT, WINDOW, WINDOWS = 100, 6.0, 21
SETTINGS = ScoreSettings(
    target=ScoreSettings.from_endpoint(REMOTE, None).target,
    limit=LIMIT,
    window_seconds=WINDOW,
    max_concurrency=32,
)


async def fill(server: Window, limit: int, seed: int) -> Run:
    """Score for 21 windows against a server that counts; latency is 20 to 120 ms."""

    def count(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return ok() if server.admit(endpoint.now) else refuse(429, headers={"Retry-After": "1"})

    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(WINDOWS * WINDOW, stop.set)
    requests = make_requests(10**6)
    settings = ScoreSettings(
        target=SETTINGS.target, limit=limit, window_seconds=WINDOW, max_concurrency=32
    )
    return await score(count, requests, settings=settings, stop=stop, seed=seed)


SERVERS: list[Callable[[int, float], Window]] = [SlidingWindow, CountingWindow, FixedWindow]


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("processes", [1, 2])
def test_no_window_of_any_kind_refuses_and_the_limit_is_used(
    kind: Callable[[int, float], Window], processes: int
) -> None:
    """20 windows after the first: no 429, and 99.5 % of what the latency leaves of the limit.

    With two processes, each has half of the limit as its share.
    """
    server = kind(LIMIT, WINDOW)

    async def main() -> list[Run]:
        runs = [fill(server, LIMIT // processes, seed) for seed in range(processes)]
        return await asyncio.gather(*runs)

    runs = simulate(main())
    latencies = sum(run.endpoint.latency for run in runs) / sum(
        run.endpoint.tries.total() for run in runs
    )
    assert server.refused == 0
    assert all(run.result.totals.throttled == 0 for run in runs)
    steady = sum(WINDOW <= at < WINDOWS * WINDOW for at in server.total) / (WINDOWS - 1)
    assert steady >= 0.995 * LIMIT * WINDOW / (WINDOW + latencies)


@pytest.mark.parametrize(("status", "kind"), [(401, KeyStop), (402, CreditStop), (403, KeyStop)])
def test_a_refused_key_or_account_stops_at_once(status: int, kind: type[RerankJobsError]) -> None:
    """After the first such answer nothing arrives but what was in flight.

    A later run scores the rest and repeats no request that has its outcome.
    """
    answered_at: list[float] = []

    def refuse_later(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        if endpoint.tries.total() < 200:
            return ok()
        answered_at.append(endpoint.now)
        return refuse(status)

    first = run(refuse_later, make_requests(1000), low=0.05, high=0.1)
    assert type(first.result.stop) is kind
    assert first.result.stop.exit_code == 3
    # An answer takes at most 50 ms to come back.
    seen_at = answered_at[0] + 0.05
    in_flight = [at for at, _ in first.endpoint.arrivals if at > seen_at]
    assert len(in_flight) <= REMOTE.max_concurrency
    assert all(at <= seen_at + 0.1 for at in in_flight)
    left = [request for request in make_requests(1000) if request.number not in first.numbers]
    second = run(lambda _endpoint, _number: ok(), left)
    assert sorted([*first.numbers, *second.numbers]) == list(range(1000))
    assert len(first.numbers) >= 199


def test_max_runtime_ends_the_sending_and_keeps_what_is_in_flight() -> None:
    """After max_seconds nothing leaves, what is in flight is accepted, a later run can go on."""
    settings = ScoreSettings(target=SETTINGS.target, limit=100, window_seconds=6, max_seconds=30)
    done = run(lambda _endpoint, _number: ok(), make_requests(10_000), settings=settings)
    assert isinstance(done.result.stop, RuntimeStop)
    assert done.result.stop.exit_code == 3
    assert max(at for at, _ in done.endpoint.arrivals) <= 30.12
    assert len(done.outcomes) == done.endpoint.tries.total() > 450


def test_tokens_a_minute_are_paced_like_requests() -> None:
    """A strict token window refuses nothing, its limit is used, and reported tokens are believed.

    The endpoint counts 20 % fewer tokens than were estimated.
    """
    seconds, limit = 6.0, 8000.0
    accepted: list[tuple[float, int]] = []
    refused = 0

    def count(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        nonlocal refused
        tokens = int(len(endpoint.documents) * 8 * 0.8)
        now = endpoint.now
        used = sum(size for at, size in accepted if at > now - seconds)
        if used + tokens > limit:
            refused += 1
            return refuse(429)
        accepted.append((now, tokens))
        body = {"search_units": 1, "total_tokens": tokens, "cost": 0.001}
        return httpx.Response(200, content=reply_body(len(endpoint.documents), usage=body))

    settings = ScoreSettings(
        target=SETTINGS.target, token_limit=int(limit), window_seconds=seconds, max_seconds=66
    )
    rng = random.Random(3)
    requests = (make_request(number, rng.randrange(1, 60)) for number in range(10**6))
    run(count, requests, settings=settings)
    assert refused == 0
    steady = sum(size for at, size in accepted if 2 * seconds <= at < 66) / (66 / seconds - 2)
    assert steady >= 0.95 * limit * seconds / (seconds + 0.07)
