"""The embedded endpoint as an ASGI app: ``POST /api/v1/rerank``, ``GET /api/v1/key``.

Beside OpenRouter's paths it has ``GET /healthz`` and ``GET /stats`` (what was answered so far).
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rerank_jobs.endpoint.instant import Scorer
from rerank_jobs.endpoint.limits import SlidingWindow
from rerank_jobs.endpoint.scorer import EmbeddedScorer
from rerank_jobs.endpoint.stats import Stats
from rerank_jobs.endpoint.units import Reading, count_units
from rerank_jobs.endpoint.wire import (
    BadRequestError,
    RerankCall,
    build_error,
    build_key_info,
    build_reply,
    parse_call,
)

__all__ = ["API_PREFIX", "create_app"]

API_PREFIX = "/api/v1"

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


def create_app(  # noqa: PLR0913
    *,
    scorer: Scorer | None = None,
    price_per_search_usd: float = 0.001,
    requests_per_minute: int | None = None,
    window_seconds: float = 60.0,
    latency_seconds: float = 0.0,
    api_key: str | None = None,
    reading: Reading = Reading.QUERY_ONCE,
    clock: Clock = time.monotonic,
    wall_clock: Clock = time.time,
    sleep: Sleep = asyncio.sleep,
) -> Starlette:
    """Return an app whose every reply has OpenRouter's shape; the same pair, the same score.

    ``scorer`` defaults to ``EmbeddedScorer.load()`` (JobError when its packages are missing).
    ``requests_per_minute`` is a strict sliding-window limit, scaled to ``window_seconds``: any
    window of that length admits ``requests_per_minute * window_seconds / 60`` requests (at least
    one). ``latency_seconds`` delays every scored reply. With ``api_key`` set, another bearer
    token gets 401. Scoring runs on one worker thread. ``app.state.stats`` holds the counters.
    """
    window = None
    if requests_per_minute is not None:
        per_window = max(1, math.floor(requests_per_minute * window_seconds / 60))
        window = SlidingWindow(per_window, window_seconds)
    endpoint = _Endpoint(
        scorer=EmbeddedScorer.load() if scorer is None else scorer,
        price_usd=price_per_search_usd,
        window=window,
        latency_seconds=latency_seconds,
        api_key=api_key,
        reading=reading,
        clock=clock,
        wall_clock=wall_clock,
        sleep=sleep,
    )

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        endpoint.worker.shutdown()

    app = Starlette(
        routes=[
            Route(f"{API_PREFIX}/rerank", endpoint.rerank, methods=["POST"]),
            Route(f"{API_PREFIX}/key", endpoint.show_key, methods=["GET"]),
            Route("/healthz", _show_health, methods=["GET"]),
            Route("/stats", endpoint.show_stats, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _answer_http_error, Exception: _answer_server_error},
        lifespan=lifespan,
    )
    app.state.stats = endpoint.stats
    return app


@dataclass(slots=True)
class _Endpoint:
    """The routes that share the scorer, the limit and the counters of one app."""

    scorer: Scorer
    price_usd: float
    window: SlidingWindow | None
    latency_seconds: float
    api_key: str | None = field(repr=False)
    reading: Reading
    clock: Clock
    wall_clock: Clock
    sleep: Sleep
    stats: Stats = field(default_factory=Stats)
    worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="rerank-scorer")
    )

    async def rerank(self, request: Request) -> Response:
        """Answer ``POST /rerank``: key, rate limit and body are checked in this order."""
        response = self._refuse_key(request) or self._refuse_rate()
        if response is None:
            try:
                call = parse_call(await request.body())
            except BadRequestError as error:
                response = _answer_error(400, str(error), {"error_type": "invalid_request"})
            else:
                return await self._answer_call(call)
        self.stats.refused += 1
        return response

    async def show_key(self, request: Request) -> Response:
        """Answer ``GET /key`` with what was charged since the app began."""
        usage = round(self.stats.search_units * self.price_usd, 9)
        return self._refuse_key(request) or _answer(200, build_key_info(usage))

    async def show_stats(self, _request: Request) -> Response:
        """Answer ``GET /stats``."""
        return _answer(200, self.stats.to_json())

    async def _answer_call(self, call: RerankCall) -> Response:
        loop = asyncio.get_running_loop()
        scores, tokens = await loop.run_in_executor(self.worker, self._score, call)
        query_tokens, *document_tokens = tokens
        units = count_units(query_tokens, document_tokens, self.reading)
        self.stats.record(call.query, call.documents, units)
        if self.latency_seconds > 0:
            await self.sleep(self.latency_seconds)
        reply_id = f"gen-rerank-{int(self.wall_clock())}-{secrets.token_hex(10)}"
        reply = build_reply(
            call,
            scores,
            reply_id=reply_id,
            model=self.scorer.model,
            search_units=units,
            total_tokens=query_tokens * len(document_tokens) + sum(document_tokens),
            cost=round(units * self.price_usd, 9),
        )
        return _answer(200, reply, {"X-Generation-Id": reply_id})

    def _score(self, call: RerankCall) -> tuple[list[float], list[int]]:
        scores = self.scorer.score(call.query, call.documents)
        return scores, self.scorer.count_tokens([call.query, *call.documents])

    def _refuse_key(self, request: Request) -> Response | None:
        if self.api_key is None:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(
            token.strip().encode(), self.api_key.encode()
        ):
            return None
        message = "No auth credentials found" if not token else "Invalid API key"
        return _answer_error(401, message, {"error_type": "authentication"})

    def _refuse_rate(self) -> Response | None:
        if self.window is None:
            return None
        wait = self.window.admit(self.clock())
        if wait <= 0:
            return None
        headers = {
            "Retry-After": str(math.ceil(wait)),
            "X-RateLimit-Limit": str(self.window.limit),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(math.ceil((self.wall_clock() + wait) * 1000)),
        }
        metadata = {
            "error_type": "rate_limit_exceeded",
            "limit_source": "openrouter_shared_capacity",
            "headers": headers,
        }
        message = (
            f"Rate limit exceeded: limited to {self.window.limit} requests "
            f"per {self.window.seconds:g} seconds"
        )
        return _answer_error(429, message, metadata, headers)


async def _show_health(_request: Request) -> Response:
    return _answer(200, {"status": "ok"})


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _answer_error(error.status_code, error.detail, headers=error.headers)


async def _answer_server_error(_request: Request, _error: Exception) -> Response:
    return _answer_error(500, "Internal Server Error")


def _answer_error(
    status: int,
    message: str,
    metadata: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return _answer(status, build_error(status, message, metadata), headers)


def _answer(
    status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
