"""What an answer changes: money, counters, lanes, pace and the outcomes that are handed over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rerank_jobs.errors import EndpointStop, RerankJobsError
from rerank_jobs.model import Failed, Outcome, Passage, Scored
from rerank_jobs.score.allowance import Allowance
from rerank_jobs.score.exchange import (
    Answer,
    Dialect,
    Lost,
    Malformed,
    Problem,
    Reading,
    Refusal,
    Reply,
)
from rerank_jobs.score.lanes import Lanes
from rerank_jobs.score.meter import Meter
from rerank_jobs.score.narrowing import MAX_PARTS, Attempt, release_rest, split
from rerank_jobs.score.overload import Overload
from rerank_jobs.score.pacing import Pace
from rerank_jobs.score.policy import Fail, Retry, Stop, Throttled, decide, describe, draw_backoff
from rerank_jobs.score.settings import ScoreSettings

__all__ = ["Judge", "Shorten"]

Shorten = Callable[[Passage, int], Sequence[str]]
"""Cuts a passage into about so many pieces, each shorter; one piece or none: it cannot be cut."""

HOPELESS_PASSAGES = 20
HOPELESS_SENDS = 200
"""Passages refused on their own, or sends refused for their content, with nothing scored, after
which the job itself is suspected. Refused sends cost nothing."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Applies the policy to every answer of one run.

    ``settle`` hands outcomes to ``accept`` (exactly one for each passage), or defers or splits the
    request, or returns why the run must stop.
    """

    settings: ScoreSettings
    dialect: Dialect
    accept: Callable[[Outcome], Awaitable[None]]
    shorten: Shorten | None
    lanes: Lanes
    pace: Pace
    overload: Overload
    allowance: Allowance
    meter: Meter
    rng: random.Random
    wall_clock: Callable[[], float]

    def read(self, attempt: Attempt, answer: Answer | Lost) -> Reading | Lost:
        """Return what the answer to an attempt says."""
        if isinstance(answer, Lost):
            return answer
        sent = len(attempt.parts) or len(attempt.request.passages)
        return self.dialect.decode(answer, sent, self.wall_clock())

    async def settle(
        self, attempt: Attempt, reading: Reading | Lost, latency: float, in_flight: int
    ) -> RerankJobsError | None:
        """Draw the consequences of ``reading``; return the reason to stop the run, if it is one."""
        if isinstance(reading, Reply):
            await self._take_reply(attempt, reading, latency, in_flight)
            return None
        return await self._resolve(attempt, reading, in_flight)

    def planned_usd(self, attempt: Attempt) -> float:
        """Return what one send of the request is planned to cost."""
        usd = attempt.search_units * self.settings.price_usd
        if self.settings.token_price_usd:
            usd += attempt.request.tokens * self.settings.token_price_usd
        return usd

    def lose(self, attempt: Attempt) -> None:
        """Count a send of which nobody knows whether it was charged."""
        planned = self.planned_usd(attempt)
        self.allowance.lose(planned)
        self.meter.unknown_usd += planned

    async def _take_reply(
        self, attempt: Attempt, reply: Reply, latency: float, in_flight: int
    ) -> None:
        cost = self._cost(attempt, reply)
        estimated = reply.usage.cost_usd is None
        self.allowance.settle(self.planned_usd(attempt), cost, estimated=estimated)
        scored = Scored(
            request=attempt.request,
            scores=(max(reply.scores),) if attempt.parts else reply.scores,
            usage=reply.usage,
            cost_usd=cost,
            cost_estimated=estimated,
            response_id=reply.response_id,
            model=reply.model or self.settings.target.model,
            provider=reply.provider,
            attempts=attempt.sends,
            latency_seconds=latency,
            received_at=self.wall_clock(),
            parts=len(attempt.parts) or 1,
        )
        self.meter.count_reply(scored, _now())
        self.overload.note_success(in_flight)
        self.lanes.note_success()
        if attempt.rest is not None:
            self.lanes.put_first(release_rest(attempt, guilty=bool(attempt.parts)))
        await self.accept(scored)

    def _cost(self, attempt: Attempt, reply: Reply) -> float:
        """Return what a reply cost: by its own word, else by its units and tokens, else as planned.

        OpenRouter's ``cost`` is in dollars; other endpoints name no money.
        """
        usage = reply.usage
        if usage.cost_usd is not None:
            return usage.cost_usd
        units = attempt.search_units if usage.search_units is None else usage.search_units
        cost = units * self.settings.price_usd
        if self.settings.token_price_usd:
            tokens = attempt.request.tokens if usage.total_tokens is None else usage.total_tokens
            cost += tokens * self.settings.token_price_usd
        return cost

    async def _resolve(
        self, attempt: Attempt, problem: Problem, in_flight: int
    ) -> RerankJobsError | None:
        self._count(attempt, problem)
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
            case Fail():
                self.overload.note_success(in_flight)
                return await self._narrow(attempt, decision)
            case Retry(after):
                backoff = draw_backoff(attempt.sends, self.rng)
                due = _now() + max(after, backoff)
            case Throttled(after):
                self.pace.pause.extend(self.overload.draw_pause(_now(), attempt.sent_at, after))
                due = self.pace.pause.until
        self.overload.note_failure(_now(), attempt.sent_at)
        self.lanes.defer(attempt, due)
        return self._lose_patience(problem)

    async def _narrow(self, attempt: Attempt, refusal: Fail) -> RerankJobsError | None:
        """Send parts of a refused request, or hand over that its only passage failed."""
        self.meter.refused += 1
        request = attempt.request
        if len(request.passages) > 1 and self.settings.splits:
            self.lanes.put_first(split(attempt, refusal.index))
            return self._suspect_job(refusal.code)
        parts = self._cut_further(attempt) if refusal.too_long else ()
        if parts:
            shorter = Attempt(request, attempt.sends, rest=attempt.rest, parts=parts)
            self.lanes.put_first([shorter])
            return self._suspect_job(refusal.code)
        self.meter.passages_failed += len(request.passages)
        self.lanes.put_first(release_rest(attempt, guilty=True))
        await self.accept(Failed(request, refusal.code, attempt.sends, self.wall_clock()))
        return self._suspect_job(refusal.code)

    def _cut_further(self, attempt: Attempt) -> tuple[str, ...]:
        """Return the pieces of a passage that was refused as too long, ``()`` if that is no use."""
        wanted = 2 * (len(attempt.parts) or 1)
        if self.shorten is None or not self.settings.splits or wanted > MAX_PARTS:
            return ()
        parts = tuple(self.shorten(attempt.request.passages[0], wanted))
        return parts if len(parts) > max(1, len(attempt.parts)) else ()

    def _suspect_job(self, code: str) -> RerankJobsError | None:
        meter, target = self.meter, self.settings.target
        hopeless = (
            meter.passages_failed >= HOPELESS_PASSAGES or meter.refused >= HOPELESS_SENDS
        ) and not meter.replies
        if not hopeless:
            return None
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

    def _count(self, attempt: Attempt, problem: Problem) -> None:
        match problem:
            case Refusal():
                self.meter.throttled += problem.status == 429
                charged = problem.billable
            case Lost():
                self.meter.lost += 1
                charged = problem.reached
            case Malformed():
                self.meter.malformed += 1
                charged = True
                if problem.cost_usd is not None:
                    self.allowance.settle(
                        self.planned_usd(attempt), problem.cost_usd, estimated=False
                    )
                    self.meter.wasted_usd += problem.cost_usd
                    return
        if charged:
            self.lose(attempt)
        else:
            self.allowance.release(self.planned_usd(attempt))


def _now() -> float:
    return asyncio.get_running_loop().time()
