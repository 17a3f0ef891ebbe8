"""What an answer changes: money, counters, lanes, pace and the outcome that is handed over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rerank_jobs.errors import EndpointStop, RerankJobsError
from rerank_jobs.model import Failed, Outcome, Scored
from rerank_jobs.score.allowance import Allowance
from rerank_jobs.score.exchange import Answer, Dialect, Lost, Malformed, Problem, Refusal, Reply
from rerank_jobs.score.lanes import Attempt, Lanes
from rerank_jobs.score.meter import Meter
from rerank_jobs.score.overload import Overload
from rerank_jobs.score.pacing import Pacer
from rerank_jobs.score.policy import Fail, Retry, Stop, Throttled, decide, describe, draw_backoff
from rerank_jobs.score.settings import ScoreSettings

__all__ = ["Judge"]

HOPELESS_REFUSALS = 20
"""Requests refused for their content, with none scored, after which the job itself is suspected."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Applies the policy to every answer of one run.

    ``settle`` either hands an outcome to ``accept`` (exactly once per request), or defers the
    request, or returns why the run must stop.
    """

    settings: ScoreSettings
    dialect: Dialect
    accept: Callable[[Outcome], Awaitable[None]]
    lanes: Lanes
    pacer: Pacer
    overload: Overload
    allowance: Allowance
    meter: Meter
    rng: random.Random
    wall_clock: Callable[[], float]

    async def settle(
        self, attempt: Attempt, answer: Answer | Lost, in_flight: int
    ) -> RerankJobsError | None:
        """Draw the consequences of ``answer``; return the reason to stop the run, if it is one."""
        if isinstance(answer, Lost):
            return await self._resolve(attempt, answer, in_flight)
        reading = self.dialect.decode(answer, len(attempt.request.passages), self.wall_clock())
        if isinstance(reading, Reply):
            await self._take_reply(attempt, reading, answer.latency_seconds, in_flight)
            return None
        return await self._resolve(attempt, reading, in_flight)

    def planned_usd(self, attempt: Attempt) -> float:
        """Return what one send of the request is planned to cost."""
        return attempt.request.search_units * self.settings.price_usd

    def lose(self, attempt: Attempt) -> None:
        """Count a send of which nobody knows whether it was charged."""
        planned = self.planned_usd(attempt)
        self.allowance.lose(planned)
        self.meter.unknown_usd += planned

    async def _take_reply(
        self, attempt: Attempt, reply: Reply, latency: float, in_flight: int
    ) -> None:
        request, usage = attempt.request, reply.usage
        units = request.search_units if usage.search_units is None else usage.search_units
        estimated = usage.cost_usd is None
        cost = units * self.settings.price_usd if usage.cost_usd is None else usage.cost_usd
        self.allowance.settle(self.planned_usd(attempt), cost, estimated=estimated)
        scored = Scored(
            request=request,
            scores=reply.scores,
            usage=usage,
            cost_usd=cost,
            cost_estimated=estimated,
            response_id=reply.response_id,
            model=reply.model or self.settings.target.model,
            provider=reply.provider,
            attempts=attempt.sends,
            latency_seconds=latency,
            received_at=self.wall_clock(),
        )
        self.meter.count_reply(scored, _now())
        self.overload.note_success(in_flight)
        self.lanes.note_success()
        await self.accept(scored)

    async def _resolve(
        self, attempt: Attempt, problem: Problem, in_flight: int
    ) -> RerankJobsError | None:
        self._count_charge(attempt, problem)
        if isinstance(problem, Refusal) and problem.status == 429:
            self.meter.throttled += 1
        decision = decide(
            problem,
            self.settings.target,
            longest_wait=self.settings.patience_seconds,
            now=self.wall_clock(),
            by_status=self.dialect.by_status,
        )
        match decision:
            case Stop(error):
                return error
            case Fail(code):
                return await self._take_failure(attempt, code, in_flight)
            case Retry(after):
                backoff = draw_backoff(attempt.sends, self.rng)
                due = _now() + max(after, backoff)
            case Throttled(after):
                self.pacer.pause_until(self.overload.draw_pause(_now(), attempt.sent_at, after))
                due = self.pacer.paused_until
        self.overload.note_failure(_now(), attempt.sent_at)
        self.lanes.defer(attempt, due)
        return self._lose_patience(problem)

    async def _take_failure(
        self, attempt: Attempt, code: str, in_flight: int
    ) -> RerankJobsError | None:
        request = attempt.request
        self.meter.requests_failed += 1
        self.meter.passages_failed += len(request.passages)
        self.overload.note_success(in_flight)
        await self.accept(Failed(request, code, attempt.sends, self.wall_clock()))
        if self.meter.replies or self.meter.requests_failed < HOPELESS_REFUSALS:
            return None
        target = self.settings.target
        return EndpointStop(
            f"{target.url} refuses every request for the model {target.model} (last: {code}):"
            " check endpoint.url, endpoint.model and the texts of the table"
        )

    def _lose_patience(self, problem: Problem) -> RerankJobsError | None:
        since = self.overload.failing_since
        if since is None or _now() - since < self.settings.patience_seconds:
            return None
        return EndpointStop(
            f"{self.settings.target.url}: nothing succeeded for {_now() - since:.0f} s"
            f" (last: {describe(problem)}): run again when the endpoint is back"
        )

    def _count_charge(self, attempt: Attempt, problem: Problem) -> None:
        match problem:
            case Refusal():
                charged = problem.billable
            case Lost():
                charged = problem.reached
            case Malformed():
                charged = True
        if charged:
            self.lose(attempt)
        else:
            self.allowance.release(self.planned_usd(attempt))


def _now() -> float:
    return asyncio.get_running_loop().time()
