"""What one run has sent, got and paid so far."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from rerank_jobs.model import Scored, ScoreTotals, Tally
from rerank_jobs.score.latency import classify_latency

__all__ = ["Meter", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot for people. ``per_minute``: paid replies at the rate of the last window.

    ``limit_per_minute`` is ``None`` for unpaced; ``pause_seconds`` remain of a shared pause.
    """

    sends: int
    replies: int
    passages_scored: int
    passages_failed: int
    search_units: int
    cost_usd: float
    unknown_usd: float
    in_flight: int
    deferred: int
    per_minute: float
    limit_per_minute: float | None
    throttled: int
    pause_seconds: float


@dataclass(slots=True)
class Meter:
    """Counters of one run; ``window_seconds`` is the span of the rate and of ``limit``."""

    window_seconds: float
    started_at: float
    limit: int | None = None
    sends: int = 0
    retries: int = 0
    replies: int = 0
    passages_scored: int = 0
    passages_failed: int = 0
    search_units: int = 0
    planned_units: int = 0
    cost_usd: float = 0.0
    unknown_usd: float = 0.0
    wasted_usd: float = 0.0
    throttled: int = 0
    lost: int = 0
    malformed: int = 0
    refused: int = 0
    _latencies: Counter[str] = field(default_factory=Counter)
    _planned_by_script: Counter[str] = field(default_factory=Counter)
    _reported_by_script: Counter[str] = field(default_factory=Counter)
    # Replies by slices of a sixtieth of the window: [slice number, replies].
    _recent: deque[list[int]] = field(default_factory=deque)

    def count_reply(self, scored: Scored, now: float) -> None:
        """Count a paid reply; units that it does not name are taken as planned."""
        planned = scored.request.search_units
        reported = scored.usage.search_units
        units = planned if reported is None else reported
        self.replies += 1
        self.passages_scored += len(scored.scores)
        self.planned_units += planned
        self.search_units += units
        self.cost_usd += scored.cost_usd
        self._latencies[classify_latency(scored.latency_seconds)] += 1
        self._planned_by_script[scored.request.script] += planned
        self._reported_by_script[scored.request.script] += units
        slot = self._slot(now)
        if not self._recent or self._recent[-1][0] != slot:
            self._recent.append([slot, 0])
        self._recent[-1][1] += 1

    def rate_per_minute(self, now: float) -> float:
        """Return paid replies a minute over the last window, or since the start if that is less."""
        oldest = self._slot(now) - 60
        while self._recent and self._recent[0][0] <= oldest:
            self._recent.popleft()
        span = min(self.window_seconds, now - self.started_at)
        return sum(replies for _, replies in self._recent) * 60 / span if span > 0 else 0.0

    def totals(self, now: float) -> ScoreTotals:
        """Return the run's totals."""
        return ScoreTotals(
            requests=self.sends,
            replies=self.replies,
            passages_scored=self.passages_scored,
            passages_failed=self.passages_failed,
            search_units=self.search_units,
            planned_units=self.planned_units,
            cost_usd=self.cost_usd,
            unknown_usd=self.unknown_usd,
            wasted_usd=self.wasted_usd,
            throttled=self.throttled,
            retries=self.retries,
            lost=self.lost,
            malformed=self.malformed,
            refused=self.refused,
            seconds=now - self.started_at,
            sends_allowed=(self.limit or 0) * (now - self.started_at) / self.window_seconds,
            latencies=Tally.of(self._latencies),
            planned_by_script=Tally.of(self._planned_by_script),
            reported_by_script=Tally.of(self._reported_by_script),
        )

    def _slot(self, now: float) -> int:
        return int((now - self.started_at) * 60 / self.window_seconds)
