"""What the routes of the embedded endpoint do: check, score, bill, and fail when asked to."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from rerank_jobs.endpoint.breaking import break_answer
from rerank_jobs.endpoint.injector import Injector, Strike
from rerank_jobs.endpoint.instant import Scorer
from rerank_jobs.endpoint.kinds import Breakage
from rerank_jobs.endpoint.limits import RateWindow
from rerank_jobs.endpoint.stats import Stats
from rerank_jobs.endpoint.units import Reading, count_units
from rerank_jobs.endpoint.wire import (
    BadRequestError,
    RerankCall,
    WireAnswer,
    build_error,
    build_key_info,
    build_reply,
    parse_call,
)

__all__ = ["Clock", "Service", "Sleep", "answer", "answer_error"]

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Service:
    """The routes that share the scorer, the limit, the faults and the counters of one app."""

    scorer: Scorer
    price_usd: float
    window: RateWindow | None
    latency_seconds: float
    injector: Injector | None
    credit_usd: float | None
    api_key: str | None = field(repr=False)
    reading: Reading
    clock: Clock
    wall_clock: Clock
    sleep: Sleep
    ids: random.Random = field(repr=False)
    stats: Stats = field(default_factory=Stats)
    worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="rerank-scorer")
    )

    async def rerank(self, request: Request) -> ASGIApp:
        """Answer ``POST /rerank``: key, rate limit, body and credit are checked in this order."""
        if self.injector is not None and (transit := self.injector.draw_transit()) > 0:
            await self.sleep(transit)
        if refusal := self._refuse_key(request):
            self.stats.refuse("authentication")
            return refusal
        problem, call = "", None
        tokens: Sequence[int] = ()
        try:
            call = parse_call(await request.body())
        except BadRequestError as error:
            problem = str(error)
        else:
            tokens = await self._count_early(call)
        if refusal := self._refuse_rate(tokens):
            self.stats.refuse("rate_limit")
            return refusal
        if call is None:
            self.stats.refuse("invalid_request")
            return answer_error(400, problem, {"error_type": "invalid_request"})
        if refusal := self._refuse_credit():
            self.stats.refuse("credits")
            return refusal
        strike = None
        if self.injector is not None:
            strike = self.injector.strike("rerank", self.clock(), call, tokens)
        return await self._answer_call(call, strike)

    async def show_key(self, request: Request) -> ASGIApp:
        """Answer ``GET /key`` with what was charged since the app began."""
        if refusal := self._refuse_key(request):
            return refusal
        if self.injector and (strike := self.injector.strike("key", self.clock())):
            self.stats.faults[strike.kind.name] += 1
            return self._fail(strike)
        return answer(200, build_key_info(self.stats.cost_usd, self.credit_usd))

    async def show_stats(self, _request: Request) -> Response:
        """Answer ``GET /stats``."""
        return answer(200, self.stats.to_json())

    async def show_bill(self, _request: Request) -> Response:
        """Answer ``GET /bill``."""
        return answer(200, self.stats.to_bill())

    async def _answer_call(self, call: RerankCall, strike: Strike | None) -> ASGIApp:
        if strike is None:
            reply = await self._score_call(call, None)
            return answer(200, reply, {"X-Generation-Id": reply["id"]})
        self.stats.faults[strike.kind.name] += 1
        if not strike.billed:
            self.stats.refuse(strike.kind.name)
        if strike.billed or strike.kind.replies:
            return self._fail(strike, call, await self._score_call(call, strike))
        return self._fail(strike, call)

    async def _score_call(self, call: RerankCall, strike: Strike | None) -> dict[str, Any]:
        """Score and bill a call, and return the reply once its latency has passed."""
        loop = asyncio.get_running_loop()
        scores, tokens = await loop.run_in_executor(self.worker, self._score, call)
        query_tokens, *document_tokens = tokens
        units = count_units(query_tokens, document_tokens, self.reading)
        cost = round(units * self.price_usd, 9)
        if strike is None or strike.billed:
            spoiled = strike is not None and not strike.kind.sound
            self.stats.record(call.query, call.documents, units, cost, spoiled=spoiled)
        latency = self.latency_seconds
        if self.injector is not None:
            latency += self.injector.draw_latency()
        if latency > 0:
            await self.sleep(latency)
        return build_reply(
            call,
            scores,
            reply_id=f"gen-rerank-{int(self.wall_clock())}-{self.ids.getrandbits(80):020x}",
            model=self.scorer.model,
            search_units=units,
            total_tokens=_sum_tokens(tokens),
            cost=cost,
        )

    def _score(self, call: RerankCall) -> tuple[list[float], list[int]]:
        scores = self.scorer.score(call.query, call.documents)
        return scores, self._count(call)

    def _count(self, call: RerankCall) -> list[int]:
        return self.scorer.count_tokens([call.query, *call.documents])

    async def _count_early(self, call: RerankCall) -> Sequence[int]:
        """Return the tokens of query and documents where a limit or a fault depends on them."""
        limited = self.window is not None and self.window.limit.tokens is not None
        if not limited and not (self.injector is not None and self.injector.needs_tokens):
            return ()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.worker, self._count, call)

    def _fail(
        self,
        strike: Strike,
        call: RerankCall | None = None,
        reply: dict[str, Any] | None = None,
    ) -> ASGIApp:
        """Return the answer, or the lack of one, that a fault makes of a call and its reply."""
        kind = strike.kind
        if kind.refuse is not None:
            failed = kind.refuse(strike.describe(call, self.wall_clock()))
        else:
            failed = WireAnswer(200, {}, b"")
            if reply is not None:
                headers = {"X-Generation-Id": reply["id"]}
                spoil = kind.spoil
                body = orjson.dumps(reply) if spoil is None else spoil(reply, strike.rng)
                failed = WireAnswer(200, headers, body)
        return break_answer(
            kind.breakage or Breakage.NONE, failed, seconds=strike.seconds, sleep=self.sleep
        )

    def _refuse_key(self, request: Request) -> Response | None:
        if self.api_key is None:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(
            token.strip().encode(), self.api_key.encode()
        ):
            return None
        message = "No auth credentials found" if not token else "Invalid API key"
        return answer_error(401, message, {"error_type": "authentication"})

    def _refuse_rate(self, tokens: Sequence[int]) -> Response | None:
        if self.window is None:
            return None
        wait = self.window.admit(self.clock(), _sum_tokens(tokens))
        if wait <= 0:
            return None
        limit = self.window.limit
        headers = {
            "Retry-After": str(math.ceil(wait)),
            "X-RateLimit-Limit": str(limit.requests or limit.tokens),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(math.ceil((self.wall_clock() + wait) * 1000)),
        }
        metadata = {
            "error_type": "rate_limit_exceeded",
            "limit_source": "openrouter_shared_capacity",
            "headers": headers,
        }
        most = [f"{limit.requests} requests"] if limit.requests else []
        most += [f"{limit.tokens} tokens"] if limit.tokens else []
        message = (
            f"Rate limit exceeded: limited to {' and '.join(most)} "
            f"per {limit.window_seconds:g} seconds"
        )
        return answer_error(429, message, metadata, headers)

    def _refuse_credit(self) -> Response | None:
        if self.credit_usd is None or self.stats.cost_usd < self.credit_usd:
            return None
        metadata = {"error_type": "payment_required", "limit_source": "openrouter_credits"}
        return answer_error(402, "Insufficient credits", metadata)


def _sum_tokens(tokens: Sequence[int]) -> int:
    """Return what a call of a query and its documents counts as ``usage.total_tokens``."""
    return tokens[0] * (len(tokens) - 1) + sum(tokens[1:]) if tokens else 0


def answer_error(
    status: int,
    message: str,
    metadata: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in the API's shape."""
    return answer(status, build_error(status, message, metadata), headers)


def answer(status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Return ``body`` as JSON."""
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
