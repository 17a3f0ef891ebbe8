"""The embedded endpoint as an ASGI app: ``POST /api/v1/rerank``, ``GET /api/v1/key``.

Beside OpenRouter's paths it has ``GET /healthz``, ``GET /stats`` (what was answered so far) and
``GET /bill`` (what was billed, by pair).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rerank_jobs.endpoint.faults import Faults
from rerank_jobs.endpoint.injector import Injector
from rerank_jobs.endpoint.instant import Scorer
from rerank_jobs.endpoint.limits import RateLimit, RateWindow
from rerank_jobs.endpoint.scorer import EmbeddedScorer
from rerank_jobs.endpoint.service import Clock, Service, Sleep, answer, answer_error
from rerank_jobs.endpoint.units import Reading

__all__ = ["API_PREFIX", "create_app"]

API_PREFIX = "/api/v1"


def create_app(  # noqa: PLR0913
    *,
    scorer: Scorer | None = None,
    price_per_search_usd: float = 0.001,
    limit: RateLimit | None = None,
    requests_per_minute: int | None = None,
    window_seconds: float = 60.0,
    latency_seconds: float = 0.0,
    faults: Faults | None = None,
    credit_usd: float | None = None,
    api_key: str | None = None,
    reading: Reading = Reading.QUERY_ONCE,
    clock: Clock = time.monotonic,
    wall_clock: Clock = time.time,
    sleep: Sleep = asyncio.sleep,
) -> Starlette:
    """Return an app whose every reply has OpenRouter's shape; the same pair, the same score.

    ``scorer`` defaults to ``EmbeddedScorer.load()`` (JobError when its packages are missing).
    ``requests_per_minute`` with ``window_seconds`` is short for
    ``limit=RateLimit.per_minute(...)``, a strict sliding window; ValueError if both are given.
    ``latency_seconds`` delays every scored reply, on top of ``faults.latency``. ``faults`` are
    what goes wrong; their schedules count from now (``clock`` is asked at once). After
    ``credit_usd`` has been billed, 402 is the answer. With ``api_key`` set, another bearer token
    gets 401. Scoring runs on one worker thread. ``app.state.stats`` holds the counters and the
    bill.

    The same seed, order of requests and clock give the same answers, byte for byte, with faults.
    """
    if requests_per_minute is not None:
        if limit is not None:
            raise ValueError("a limit or requests_per_minute, not both")
        limit = RateLimit.per_minute(requests_per_minute, window_seconds=window_seconds)
    service = Service(
        scorer=EmbeddedScorer.load() if scorer is None else scorer,
        price_usd=price_per_search_usd,
        window=None if limit is None else RateWindow(limit),
        latency_seconds=latency_seconds,
        injector=None if faults is None else Injector(faults, clock()),
        credit_usd=credit_usd,
        api_key=api_key,
        reading=reading,
        clock=clock,
        wall_clock=wall_clock,
        sleep=sleep,
        ids=random.SystemRandom() if faults is None else random.Random(faults.seed),  # noqa: S311
    )

    return _assemble(service)


def _assemble(service: Service) -> Starlette:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        service.worker.shutdown()

    app = Starlette(
        routes=[
            Route(f"{API_PREFIX}/rerank", service.rerank, methods=["POST"]),
            Route(f"{API_PREFIX}/key", service.show_key, methods=["GET"]),
            Route("/healthz", _show_health, methods=["GET"]),
            Route("/stats", service.show_stats, methods=["GET"]),
            Route("/bill", service.show_bill, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _answer_http_error, Exception: _answer_server_error},
        lifespan=lifespan,
    )
    app.state.stats = service.stats
    return app


async def _show_health(_request: Request) -> Response:
    return answer(200, {"status": "ok"})


async def _answer_http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return answer_error(error.status_code, error.detail, headers=error.headers)


async def _answer_server_error(_request: Request, _error: Exception) -> Response:
    return answer_error(500, "Internal Server Error")
