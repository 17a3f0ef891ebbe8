"""Which processes share a limit, and what the run does with it."""

from __future__ import annotations

from typing import Any

import pytest

from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.errors import LimitStop
from rerank_jobs.model import Outcome
from rerank_jobs.score import DIALECTS, ScoreResult, ScoreSettings, open_client, score_requests
from rerank_jobs.score.access import Access
from rerank_jobs.score.limit_store import SharedLimit, read_shared_limit
from tests.unit.score.fakes import FakeEndpoint, SlidingWindow, make_requests, ok, refuse
from tests.unit.score.limit_model import LimitModel, ModelStore, Rates
from tests.unit.score.simulation import simulate

URL = "https://api.example/v1"
KEY = "sk-or-v1-kiwicanary"
STORE = "redis://limits.example"


def share(
    key: str | None = KEY, headers: tuple[tuple[str, str], ...] = (), **keys: Any
) -> SharedLimit:
    """Return the limit that a job with these keys shares."""
    pytest.importorskip("redis", reason="the package redis is not installed")
    endpoint = Endpoint(**{"url": URL, "limit_store": STORE, **keys})
    access = Access(headers=tuple((name, Secret(value)) for name, value in headers))
    settings = ScoreSettings.from_endpoint(endpoint, None)
    limit = read_shared_limit(endpoint, settings, None if key is None else Secret(key), access)
    assert limit is not None
    return limit


def test_one_host_and_key_are_one_limit() -> None:
    """Model, path, pace and concurrency do not count: the account's limit is what is shared."""
    name = share().name
    assert share(model="other", max_concurrency=3, requests_per_minute=5).name == name
    assert share(url="https://API.example/v2").name == name


@pytest.mark.parametrize(
    "changes",
    [
        {"key": KEY + "2"},
        {"key": None},
        {"url": "https://other.example/v1"},
        {"headers": (("X-Key", "one"),)},
        {"limit_window_seconds": 6},
        {"limit_name": "account"},
    ],
)
def test_other_accounts_have_other_limits(changes: dict[str, Any]) -> None:
    """Another key, host, secret header, window or name is another limit."""
    assert share(**changes).name != share().name


def test_a_name_joins_keys_and_hosts() -> None:
    """With ``limit_name`` nothing else counts."""
    one = share(limit_name="account")
    assert share(key="other", url="https://other.example", limit_name="account").name == one.name


def test_no_secret_is_in_the_name_or_the_repr() -> None:
    """The key's name in the store is a digest; the password is shown nowhere."""
    limit = share(headers=(("X-Key", "okapicanary"),))
    assert "canary" not in repr(limit)


@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("redis://limits.example", ("limits.example", 6379, 0, None, False)),
        ("rediss://me@[::1]:6380/3", ("::1", 6380, 3, "me", True)),
    ],
)
def test_the_address_is_read(store: str, place: tuple[object, ...]) -> None:
    """Host, port, database, user and TLS, with Redis' own defaults."""
    limit = share(limit_store=store)
    assert (limit.host, limit.port, limit.database, limit.user, limit.tls) == place


def test_a_job_without_a_store_shares_nothing() -> None:
    """Its process has a pace of its own."""
    endpoint = Endpoint(url=URL)
    settings = ScoreSettings.from_endpoint(endpoint, None)
    assert read_shared_limit(endpoint, settings, None, Access()) is None


def test_a_credit_outlives_whatever_a_server_may_still_count() -> None:
    """A send may leave two seconds after it is due, take its timeout, and counts for a window."""
    assert share(timeout_seconds=30).life_seconds == 2 + 30 + 60


async def run_shared(store: ModelStore, seconds: float, patience: float) -> tuple[Any, ...]:
    """Score through a strict server at a shared limit; return result, outcomes and server."""
    server = SlidingWindow(100, 6.0)
    settings = ScoreSettings(
        target=ScoreSettings.from_endpoint(Endpoint(url=URL), None).target,
        limit=100,
        window_seconds=6.0,
        patience_seconds=patience,
        max_seconds=seconds,
    )
    fake = FakeEndpoint(lambda fake, _: ok() if server.admit(fake.now) else refuse(429), 0.02, 0.12)
    client = open_client(Endpoint(url=URL), None, transport=fake)
    outcomes: list[Outcome] = []

    async def accept(outcome: Outcome) -> None:
        outcomes.append(outcome)
        store.away = len(outcomes) == 150 or store.away

    result: ScoreResult = await score_requests(
        make_requests(1000),
        settings=settings,
        client=client,
        dialect=DIALECTS["openrouter"],
        accept=accept,
        limit_store=store,
    )
    return result, outcomes, server


def test_a_run_without_its_store_stops_and_keeps_what_it_has() -> None:
    """After the patience it ends with a LimitStop; what was sent was accepted, no 429 came."""
    store = ModelStore(LimitModel(), Rates(100, None, 6.0, 98.0))
    result, outcomes, server = simulate(run_shared(store, 600.0, 20.0))
    assert isinstance(result.stop, LimitStop)
    assert 150 <= len(outcomes) <= 154
    assert result.totals.requests == len(outcomes)
    assert server.refused == 0
    assert 20 <= result.totals.seconds <= 40
