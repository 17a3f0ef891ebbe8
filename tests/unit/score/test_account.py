"""What ``GET /key`` says: every shape of answer, over a given transport and over a socket."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest

from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.score import Account, KeyReply, ask_account, read_access
from rerank_jobs.score.account import read_account
from tests.unit.score.network import read_headers, serve_http

KEY = "sk-or-v1-canary-key"
REMOTE = Endpoint(url="https://openrouter.ai/api/v1")

EXAMPLE: dict[str, Any] = {
    "label": "sk-or-v1-au7...890",
    "limit": 100,
    "limit_remaining": 74.5,
    "limit_reset": "monthly",
    "include_byok_in_limit": False,
    "usage": 25.5,
    "usage_daily": 1.5,
    "usage_weekly": 25.5,
    "usage_monthly": 25.5,
    "is_free_tier": False,
    "is_management_key": False,
    "expires_at": "2027-12-31T23:59:59Z",
    "rate_limit": {"interval": "1h", "requests": -1},
}
"""OpenRouter's own example, cut to what matters, with a use of today that differs."""


def answer(status: int = 200, body: object = None, **headers: str) -> httpx.MockTransport:
    """Return a transport that answers so."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.MockTransport(lambda _: httpx.Response(status, content=content, headers=headers))


def ask(transport: httpx.AsyncBaseTransport) -> KeyReply:
    return ask_account(REMOTE, Secret(KEY), read_access(REMOTE), transport=transport)


def test_the_documented_answer_is_read_whole() -> None:
    """Each field of OpenRouter's example comes out with its value, and the server's date."""
    reply = ask(answer(200, {"data": EXAMPLE}, date="Wed, 25 Nov 2026 04:17:12 GMT"))
    assert reply == KeyReply(
        Account(
            limit=100.0,
            limit_remaining=74.5,
            usage=25.5,
            usage_daily=1.5,
            usage_monthly=25.5,
            is_free_tier=False,
            budget_remaining=None,
            expires_at="2027-12-31T23:59:59Z",
        ),
        status=200,
        server_time=1795580232.0,
    )


@pytest.mark.parametrize(
    ("limit", "budget", "remaining"),
    [
        (74.5, None, 74.5),
        (74.5, {"remaining_usd": 3, "scope": "workspace"}, 3.0),
        (1, {"remaining_usd": 3.0}, 1.0),
        (None, {"remaining_usd": 3.0}, 3.0),
        (None, None, None),
        (-0.25, {}, -0.25),
        ("74.5", {"remaining_usd": True}, None),
        (True, "much", None),
    ],
)
def test_what_remains_is_the_least_that_is_known(
    limit: object, budget: object, remaining: float | None
) -> None:
    """The budget that blocks first counts; null and values that are no numbers are unknown."""
    data = {**EXAMPLE, "limit_remaining": limit, "effective_budget": budget}
    account = read_account(json.dumps({"data": data}).encode())
    assert account is not None
    assert account.remaining == remaining


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":[1]}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_what_is_no_account_is_none(body: bytes) -> None:
    """Anything but the documented object is said to name no account."""
    assert read_account(body) is None
    assert ask(answer(200, body)) == KeyReply(None, "the answer names no account", 200)


def test_an_account_of_which_nothing_is_said_is_unknown() -> None:
    """Each missing or mistyped field is None; nothing is guessed."""
    assert read_account(b'{"data":{}}') == Account()
    odd = {name: [1] for name in EXAMPLE} | {"expires_at": "a\nb", "is_free_tier": 1}
    assert read_account(json.dumps({"data": odd}).encode()) == Account()


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "the key is refused"), (404, "it answers 404"), (500, "it answers 500")],
)
def test_a_refusal_is_a_reason(status: int, reason: str) -> None:
    """Another status than 200 brings no account, whatever its body says."""
    assert ask(answer(status, {"data": EXAMPLE})) == KeyReply(None, reason, status)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ConnectError(KEY), "no connection"),
        (httpx.ReadTimeout(KEY), "timeout"),
        (httpx.ProxyError(KEY), "the proxy refused"),
        (httpx.RemoteProtocolError(KEY), "connection broke"),
    ],
)
def test_network_trouble_is_a_reason(error: Exception, reason: str) -> None:
    """Nothing is raised where nothing answers."""

    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    assert ask(httpx.MockTransport(fail)) == KeyReply(None, reason)


def test_the_question_carries_key_and_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """GET goes to <url>/key over the way of the job: key, headers and secret headers."""
    monkeypatch.setenv("GATEWAY_TOKEN", "canary-token")

    async def main() -> tuple[KeyReply, list[str]]:
        async with serve_http(json.dumps({"data": EXAMPLE}).encode()) as origin:
            endpoint = Endpoint(
                url=f"http://127.0.0.1:{origin.port}/api/v1/",
                headers={"X-Team": "search"},
                secret_headers={"X-Gateway": "GATEWAY_TOKEN"},
            )
            access = read_access(endpoint)
            reply = await asyncio.to_thread(ask_account, endpoint, Secret(KEY), access)
            return reply, origin.heads

    reply, (head,) = asyncio.run(main())
    assert reply.account is not None
    assert reply.account.limit_remaining == 74.5
    assert head.startswith("GET /api/v1/key HTTP/1.1\r\n")
    sent = read_headers(head)
    assert (sent["authorization"], sent["x-team"], sent["x-gateway"]) == (
        f"Bearer {KEY}",
        "search",
        "canary-token",
    )


def test_a_silent_server_is_given_up_soon() -> None:
    """The question ends at its own short timeout, not at that of a request."""
    done = threading.Event()

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            try:
                await asyncio.sleep(60)
            finally:
                done.set()
            raise AssertionError(request)

    reply = ask_account(
        REMOTE, Secret(KEY), read_access(REMOTE), transport=Silent(), timeout_seconds=0.05
    )
    assert reply == KeyReply(None, "timeout")
    assert done.is_set()
