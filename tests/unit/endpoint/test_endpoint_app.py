"""Every kind of reply: OpenRouter's shape, its codes, its counts."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.units import Reading
from tests.unit.endpoint.conftest import BODY, RERANK, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.applications import Starlette

    Check = Callable[[httpx.Response, str, str], None]


def test_reply_has_the_contract_shape(app: Starlette, send: Send, assert_valid: Check) -> None:
    """A scored reply validates, names the embedded model and carries its id in the header too."""
    reply = send(app, "POST", RERANK, json=BODY)
    assert_valid(reply, "/rerank", "post")
    body = reply.json()
    assert reply.status_code == 200
    assert (body["model"], body["provider"]) == ("embedded/instant-1", "Embedded")
    assert body["id"].startswith("gen-rerank-")
    assert reply.headers["x-generation-id"] == body["id"]
    assert body["usage"] == {"search_units": 1, "total_tokens": 3 * 3 + 3, "cost": 0.001}


def test_results_are_sorted_and_echo_their_text(app: Starlette, send: Send) -> None:
    """Results fall by score, each index once, each with the text at that index."""
    documents = [f"text {number}" for number in range(50)]
    documents[7:9] = [{"text": "text 7"}, {"text": "text 8", "image": "https://x.test/a.png"}]  # type: ignore[list-item]
    results = send(app, "POST", RERANK, json={**BODY, "documents": documents}).json()["results"]
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in results) == list(range(50))
    assert all(result["document"] == {"text": f"text {result['index']}"} for result in results)


def test_equal_scores_keep_the_order_of_the_request(app: Starlette, send: Send) -> None:
    """Ties are broken by index, so that the same request has one answer."""
    body = {**BODY, "documents": ["same", "same", "same"]}
    results = send(app, "POST", RERANK, json=body).json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2]


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (3, 3), (99, 3)])
def test_top_n_cuts_the_results(app: Starlette, send: Send, top_n: int, count: int) -> None:
    """``top_n`` best results come back; the whole request is counted all the same."""
    every = send(app, "POST", RERANK, json=BODY).json()["results"]
    reply = send(app, "POST", RERANK, json={**BODY, "top_n": top_n}).json()
    assert reply["results"] == every[:count]
    assert reply["usage"]["search_units"] == 1


def test_units_and_cost_count_long_documents(send: Send) -> None:
    """200 documents of 2,000 characters are four units by I1, at the price per search."""
    app = create_app(scorer=InstantScorer(), price_per_search_usd=0.002)
    body = {**BODY, "documents": ["x" * 2000] * 200}
    usage = send(app, "POST", RERANK, json=body).json()["usage"]
    assert (usage["search_units"], usage["cost"]) == (4, 0.008)


def test_units_follow_the_reading_asked_for(send: Send) -> None:
    """The dearer reading of the price can be chosen."""
    body = {**BODY, "query": "q" * 160, "documents": ["x" * 3800] * 100}
    cheap, dear = (
        create_app(scorer=InstantScorer(), reading=reading)
        for reading in (Reading.QUERY_ONCE, Reading.QUERY_PER_CHUNK)
    )
    assert send(cheap, "POST", RERANK, json=body).json()["usage"]["search_units"] == 2
    assert send(dear, "POST", RERANK, json=body).json()["usage"]["search_units"] == 3


BAD_BODIES: list[tuple[str, Any]] = [
    ("JSON object", []),
    ("model", {"query": "q", "documents": ["d"]}),
    ("model", {**BODY, "model": 3}),
    ("query", {"model": "m", "documents": ["d"]}),
    ("query", {**BODY, "query": " \n"}),
    ("documents", {"model": "m", "query": "q"}),
    ("documents", {**BODY, "documents": []}),
    ("documents", {**BODY, "documents": "d"}),
    ("index 1 is an image", {**BODY, "documents": ["d", {"image": "https://x.test/a.png"}]}),
    ("index 0 must be", {**BODY, "documents": [{}]}),
    ("index 0 must be", {**BODY, "documents": [None]}),
    ("index 2 must be", {**BODY, "documents": ["a", "b", 3]}),
    ("index 1 cannot be empty", {**BODY, "documents": ["a", "\n"]}),
    ("at most 10000", {**BODY, "documents": ["a"] * 10_001}),
    ("top_n", {**BODY, "top_n": 0}),
    ("top_n", {**BODY, "top_n": "2"}),
    ("top_n", {**BODY, "top_n": True}),
    ("provider", {**BODY, "provider": "cohere"}),
]


@pytest.mark.parametrize(("named", "body"), BAD_BODIES)
def test_bad_bodies_are_refused_with_400(
    app: Starlette, send: Send, assert_valid: Check, named: str, body: object
) -> None:
    """A bad field gives 400 in the contract's shape, naming the field, and is not billed."""
    reply = send(app, "POST", RERANK, content=json.dumps(body))
    assert_valid(reply, "/rerank", "post")
    assert reply.status_code == reply.json()["error"]["code"] == 400
    assert named in reply.json()["error"]["message"]
    assert (app.state.stats.requests, app.state.stats.refused) == (0, 1)


@pytest.mark.parametrize("body", [b"", b"{", b'{"query": "\xff"}', b"\x00", b'{"model": NaN}'])
def test_malformed_json_is_refused_with_400(
    app: Starlette, send: Send, assert_valid: Check, body: bytes
) -> None:
    """What is not JSON in UTF-8 gives 400, never a crash."""
    reply = send(app, "POST", RERANK, content=body)
    assert_valid(reply, "/rerank", "post")
    assert "not valid JSON" in reply.json()["error"]["message"]


def test_errors_hold_no_text_of_the_request(app: Starlette, send: Send) -> None:
    """Query and document text never come back in an error."""
    body = {**BODY, "query": "SECRET-Q", "documents": ["SECRET-D", {"image": "SECRET-I"}]}
    reply = send(app, "POST", RERANK, json=body)
    assert reply.status_code == 400
    assert "SECRET" not in reply.text


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic sk-right", "sk-right"])
def test_other_keys_are_refused_with_401(
    send: Send, assert_valid: Check, header: str | None
) -> None:
    """With a key set, anything but that bearer token gets 401 on both paths."""
    app = create_app(scorer=InstantScorer(), api_key="sk-right")
    headers = {"Authorization": header} if header else {}
    reply = send(app, "POST", RERANK, json=BODY, headers=headers)
    assert_valid(reply, "/rerank", "post")
    assert reply.status_code == 401
    shown = send(app, "GET", "/api/v1/key", headers=headers)
    assert_valid(shown, "/key", "get")
    assert shown.status_code == 401


def test_the_right_key_is_served(send: Send) -> None:
    """The key itself is accepted."""
    app = create_app(scorer=InstantScorer(), api_key="sk-right")
    headers = {"Authorization": "Bearer sk-right"}
    assert send(app, "POST", RERANK, json=BODY, headers=headers).status_code == 200
    assert send(app, "GET", "/api/v1/key", headers=headers).status_code == 200


def test_key_shows_what_was_charged(app: Starlette, send: Send, assert_valid: Check) -> None:
    """``GET /key`` validates and its usage is the cost of the replies so far."""
    send(app, "POST", RERANK, json=BODY)
    send(app, "POST", RERANK, json=BODY)
    reply = send(app, "GET", "/api/v1/key")
    assert_valid(reply, "/key", "get")
    assert reply.json()["data"]["usage"] == 0.002


def test_rate_limit_refuses_with_the_wait(send: Send, assert_valid: Check) -> None:
    """The third request of a window of two gets 429 with the wait in every place for hints."""
    now = [100.0]
    app = create_app(
        scorer=InstantScorer(),
        requests_per_minute=2,
        clock=lambda: now[0],
        wall_clock=lambda: 1_700_000_000.0,
    )
    assert send(app, "POST", RERANK, json=BODY).status_code == 200
    now[0] = 120.5
    reply = send(app, "POST", RERANK, json=BODY)
    assert reply.status_code == 200
    assert "x-ratelimit-limit" not in reply.headers
    refused = send(app, "POST", RERANK, json=BODY)
    assert_valid(refused, "/rerank", "post")
    hints = {
        "Retry-After": "40",
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "1700000039500",
    }
    assert refused.status_code == 429
    assert {name: refused.headers[name] for name in hints} == hints
    metadata = refused.json()["error"]["metadata"]
    assert metadata["limit_source"] == "openrouter_shared_capacity"
    assert metadata["headers"] == hints
    now[0] = 160.0
    assert send(app, "POST", RERANK, json=BODY).status_code == 200
    assert app.state.stats.to_json()["refused"] == 1


def test_rate_limit_scales_to_its_window(send: Send) -> None:
    """600 a minute over windows of one second is ten a second."""
    app = create_app(
        scorer=InstantScorer(), requests_per_minute=600, window_seconds=1.0, clock=lambda: 0.0
    )
    statuses = [send(app, "POST", RERANK, json=BODY).status_code for _ in range(11)]
    assert statuses == [200] * 10 + [429]


def test_unknown_paths_and_methods_have_the_error_shape(
    app: Starlette, send: Send, assert_valid: Check
) -> None:
    """404 and 405 are errors in the API's shape, not plain text."""
    missing = send(app, "POST", "/api/v1/nothing", json=BODY)
    assert_valid(missing, "/rerank", "post")
    assert missing.status_code == missing.json()["error"]["code"] == 404
    wrong = send(app, "GET", RERANK)
    assert wrong.status_code == wrong.json()["error"]["code"] == 405


def test_a_failing_scorer_answers_500(send: Send, assert_valid: Check) -> None:
    """An error inside is a 500 in the API's shape, with its cause masked."""

    class BrokenScorer(InstantScorer):
        def score(self, query: str, documents: Sequence[str]) -> list[float]:
            raise RuntimeError(query, documents)

    reply = send(create_app(scorer=BrokenScorer()), "POST", RERANK, json=BODY)
    assert_valid(reply, "/rerank", "post")
    assert reply.status_code == 500
    assert "usb" not in reply.text


def test_latency_is_slept_after_scoring(send: Send) -> None:
    """A simulated latency delays each scored reply by exactly that, and no refusal."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    app = create_app(scorer=InstantScorer(), latency_seconds=0.25, sleep=sleep)
    send(app, "POST", RERANK, json=BODY)
    send(app, "POST", RERANK, json={})
    assert slept == [0.25]


def test_scoring_leaves_the_loop_free() -> None:
    """While a request is being scored the app answers others: the scorer runs off the loop."""
    release = threading.Event()

    class WaitingScorer(InstantScorer):
        def score(self, query: str, documents: Sequence[str]) -> list[float]:
            assert release.wait(10)
            return super().score(query, documents)

    async def run() -> tuple[int, int]:
        transport = httpx.ASGITransport(create_app(scorer=WaitingScorer()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            scoring = asyncio.create_task(client.post(RERANK, json=BODY))
            await asyncio.sleep(0)
            health = await client.get("/healthz")
            release.set()
            return health.status_code, (await scoring).status_code

    assert asyncio.run(run()) == (200, 200)


def test_stats_count_what_was_scored_twice(app: Starlette, send: Send) -> None:
    """A pair scored again is counted once as repeated; another query makes another pair."""
    for query, documents in [("q", ["a", "b"]), ("q2", ["a"]), ("q", ["a", "c"]), ("q", ["a"])]:
        send(app, "POST", RERANK, json={"model": "m", "query": query, "documents": documents})
    send(app, "POST", RERANK, json={})
    assert send(app, "GET", "/stats").json() == {
        "requests": 4,
        "passages": 6,
        "search_units": 4,
        "cost_usd": 0.004,
        "refused": 1,
        "pairs_repeated": 1,
        "sends": {"answered": 4, "spoiled": 0, "refused": 1},
        "refusals": {"invalid_request": 1},
        "faults": {},
    }


def test_health_is_ok(app: Starlette, send: Send) -> None:
    """``GET /healthz`` says that the app is up."""
    assert send(app, "GET", "/healthz").json() == {"status": "ok"}


def test_representations_hide_text_and_key() -> None:
    """Neither the counters nor a call nor the app's state shows text or the key."""
    app = create_app(scorer=InstantScorer(), api_key="SECRET")
    app.state.stats.record("SECRET", ["SECRET"], 1)
    endpoint = app.routes[0].endpoint.__self__  # type: ignore[attr-defined]
    assert "SECRET" not in repr(endpoint) + repr(app.state.stats)
