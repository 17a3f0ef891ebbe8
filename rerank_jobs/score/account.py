"""What the endpoint knows of the key: OpenRouter's ``GET /key``, which costs nothing.

Contract: https://openrouter.ai/docs (operation getCurrentKey). Fields that are missing, null or of
another type are unknown: what a key may still spend is never guessed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson

from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.dollars import show_usd
from rerank_jobs.score.access import Access
from rerank_jobs.score.client import open_key_client
from rerank_jobs.score.exchange import Answer, Lost

__all__ = ["Account", "KeyReply", "ask_account", "describe_account", "read_account"]

ASK_SECONDS = 5.0
_MAX_DATE = 40


@dataclass(frozen=True, slots=True)
class Account:
    """A key's limits and use in dollars; ``None`` where the endpoint does not say.

    ``limit`` and ``limit_remaining`` are the key's own. ``budget_remaining`` is what is left of the
    budget that blocks first among the key's, its owner's and its workspace's.
    """

    limit: float | None = None
    limit_remaining: float | None = None
    usage: float | None = None
    usage_daily: float | None = None
    usage_monthly: float | None = None
    is_free_tier: bool | None = None
    budget_remaining: float | None = None
    expires_at: str | None = None

    @property
    def remaining(self) -> float | None:
        """Dollars that may still be spent, ``None`` if no limit is known."""
        known = [x for x in (self.limit_remaining, self.budget_remaining) if x is not None]
        return min(known, default=None)


@dataclass(frozen=True, slots=True)
class KeyReply:
    """What asking brought: the account, or why there is none (a few words of ours).

    ``status`` is ``None`` where nothing answered, ``server_time`` (seconds since the epoch) where
    the answer bore no date.
    """

    account: Account | None
    reason: str = ""
    status: int | None = None
    server_time: float | None = None


def ask_account(
    endpoint: Endpoint,
    key: Secret | None,
    access: Access,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    timeout_seconds: float = ASK_SECONDS,
) -> KeyReply:
    """Ask once, in an event loop of its own; trouble with network or server is a reason, no error.

    Raises:
        KeyStop: the key holds characters that no HTTP header can carry.

    """

    async def ask() -> Answer | Lost:
        client = open_key_client(
            endpoint, key, access=access, transport=transport, timeout_seconds=timeout_seconds
        )
        try:
            return await client.send(b"")
        finally:
            await client.aclose()

    answer = asyncio.run(ask())
    if isinstance(answer, Lost):
        return KeyReply(None, answer.reason)
    account = read_account(answer.body) if answer.status == 200 else None
    reason = ""
    if account is None:
        reason = {200: "the answer names no account", 401: "the key is refused"}.get(
            answer.status, f"it answers {answer.status}"
        )
    return KeyReply(account, reason, answer.status, _read_date(answer.headers))


def read_account(body: bytes) -> Account | None:
    """Return what a 200 answer's body says, ``None`` where it is no account; never raises."""
    try:
        whole = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    data = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(data, dict):
        return None
    budget = data.get("effective_budget")
    free, expires = data.get("is_free_tier"), data.get("expires_at")
    return Account(
        limit=_dollars(data, "limit"),
        limit_remaining=_dollars(data, "limit_remaining"),
        usage=_dollars(data, "usage"),
        usage_daily=_dollars(data, "usage_daily"),
        usage_monthly=_dollars(data, "usage_monthly"),
        is_free_tier=free if isinstance(free, bool) else None,
        budget_remaining=_dollars(budget, "remaining_usd") if isinstance(budget, dict) else None,
        expires_at=expires if isinstance(expires, str) and _is_date(expires) else None,
    )


def describe_account(account: Account | None) -> str:
    """Return what is known of an account in a few words, each after a semicolon; may be empty."""
    if account is None:
        return ""
    words = []
    if account.remaining is not None:
        words.append(f"{show_usd(account.remaining)} of the key's limit remain")
    if account.usage_daily is not None:
        words.append(f"{show_usd(account.usage_daily)} used today")
    if account.is_free_tier:
        words.append("free tier")
    if account.expires_at is not None:
        words.append(f"the key expires {account.expires_at[:10]}")
    return "".join(f"; {word}" for word in words)


def _dollars(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _is_date(text: str) -> bool:
    return len(text) <= _MAX_DATE and text.isascii() and text.isprintable()


def _read_date(headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        return None
