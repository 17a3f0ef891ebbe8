"""The rules of ``limit.lua`` in Python: what simulations share, and what the script is held to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rerank_jobs.score.limit_store import PRESENT_SECONDS
from rerank_jobs.score.pacing import BURST, HEAD_SHARE, TOKEN_SLICES
from rerank_jobs.score.shared_pacing import Return, StoreAway

MICRO = 1e6


@dataclass(frozen=True, slots=True)
class Rates:
    """What one process says of the limit; ``None`` is no limit, times in seconds."""

    requests: int | None
    tokens: int | None
    window_seconds: float
    life_seconds: float


def tokens_of(credit: str) -> int:
    """Return the tokens that a credit's name holds."""
    return int(credit.rsplit(":", 1)[1])


@dataclass(slots=True)
class LimitModel:
    """One limit as the script keeps it; instants in microseconds, handed in."""

    run: str | None = None
    closed: str = ""
    opens: float | None = None
    free: float = 0.0
    token_free: float = 0.0
    credits: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    rates: dict[tuple[float, float], float] = field(default_factory=dict)

    def exchange(
        self,
        now: int,
        rates: Rates,
        booked: str,
        spaced: int,
        returns: Sequence[Return],
        *,
        run: str = "run",
        moved: bool = False,
    ) -> int | None:
        """Do what the script does in one step; return how long until the booked credit is due."""
        window, life = round(rates.window_seconds * MICRO), round(rates.life_seconds * MICRO)
        self.opens = now if self.opens is None else self.opens
        if (moved or self.run not in {None, run}) and self.closed != run:
            self.opens = max(self.opens, now + window + life)
            self.closed = run
        self.run = run
        self.credits = {name: until for name, until in self.credits.items() if until > now}
        for one in returns:
            self._take_back(one, now, window)
        limit, token_limit = self._find_lowest(rates, now, life)
        if booked and booked not in self.credits:
            self.waiting[booked] = (spaced, life, now)  # a dict keeps the first one's place
        for credit, (amount, its_life, seen) in list(self.waiting.items()):
            if seen + PRESENT_SECONDS * MICRO > now:
                due = self._find_due(tokens_of(credit), limit, token_limit, window)
                if not self._book(credit, due, amount, its_life, (limit, token_limit, now, window)):
                    break
            del self.waiting[credit]
        until = self.credits.get(booked)
        return None if until is None else round(until) - life - now

    def _take_back(self, one: Return, now: int, window: int) -> None:
        self.waiting.pop(one.credit, None)
        if self.credits.pop(one.credit, None) is None or one.age_seconds is None:
            return
        name, tokens = one.credit.rsplit(":", 1)
        counted = tokens if one.counted is None else one.counted
        self.credits[f"{name}:{counted}"] = now - int(one.age_seconds * MICRO) + window

    def _find_lowest(self, rates: Rates, now: int, life: int) -> tuple[float, float]:
        self.rates = {rate: seen for rate, seen in self.rates.items() if seen > now - life}
        self.rates[rates.requests or math.inf, rates.tokens or math.inf] = now
        return min(rate[0] for rate in self.rates), min(rate[1] for rate in self.rates)

    def _find_due(self, tokens: int, limit: float, token_limit: float, window: int) -> float:
        head = 1.0
        if limit < math.inf:
            head = 1 - min(BURST, limit // HEAD_SHARE)
        need = len(self.credits) + 1
        tokens_needed = sum(map(tokens_of, self.credits)) + min(tokens, token_limit)

        def reached() -> float:
            if need > limit or tokens_needed > token_limit:
                return math.inf
            assert self.opens is not None
            by_requests = max(0, need - head) * window / limit
            return self.opens + max(by_requests, tokens_needed * window / token_limit)

        due = reached()
        # Redis orders members of one score by their bytes.
        for name, instant in sorted(self.credits.items(), key=lambda item: (item[1], item[0])):
            if due <= instant:
                break
            need -= 1
            tokens_needed -= tokens_of(name)
            due = max(instant, reached())
        return due

    def _book(
        self,
        credit: str,
        due: float,
        spaced: float,
        life: int,
        pace: tuple[float, float, int, int],
    ) -> bool:
        limit, token_limit, now, window = pace
        interval, token_interval = window / limit, window / token_limit
        due = max(due, now, self.free - (BURST - 1) * interval)
        if token_limit < math.inf:
            most = token_limit / TOKEN_SLICES
            spaced = min(spaced, most)
            due = max(due, self.token_free - (most - spaced) * token_interval)
        whole = due if due == math.inf else math.ceil(due)
        if whole - now > window:
            return False
        self.free = max(self.free, whole) + interval
        if token_limit < math.inf:
            self.token_free = max(self.token_free, whole) + spaced * token_interval
        self.credits[credit] = whole + life
        return True


@dataclass(slots=True)
class ModelStore:
    """The store of one process in a simulation: an answer takes ``seconds``, or does not come."""

    model: LimitModel
    rates: Rates
    seconds: float = 0.001
    away: bool = False
    questions: int = 0

    async def exchange(self, booked: str, spaced: int, returns: Sequence[Return]) -> float | None:
        """Ask the model by the simulation's clock."""
        self.questions += 1
        await asyncio.sleep(self.seconds / 2)
        if self.away:
            raise StoreAway("ConnectionError")
        now = int(asyncio.get_running_loop().time() * MICRO)
        wait = self.model.exchange(now, self.rates, booked, spaced, returns)
        await asyncio.sleep(self.seconds / 2)
        return None if wait is None else wait / MICRO
