"""How many sends may be in flight, and when to hold back: a state machine with the clock passed in.

AIMD (start 20, +1 on a success, x 0.9 on a failure) bounds the sends in flight; a run of failures
without a success is an outage, in which single probes leave ever more rarely. Instants are
loop time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

__all__ = ["Overload"]

START_WINDOW = 20.0
INCREASE = 1.0
DECREASE = 0.9
OUTAGE_FAILURES = 10
"""Failures in a row that make an outage: at 30 % random failures, one chance in 170,000."""

PROBE_BASE_SECONDS = 1.0
PAUSE_BASE_SECONDS = 1.0
LONGEST_SECONDS = 60.0


@dataclass(slots=True)
class Overload:
    """What the last answers say about the endpoint."""

    max_concurrency: int
    rng: random.Random
    window: float = field(init=False)
    failing_since: float | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _outage_since: float | None = field(default=None, init=False)
    _probes: int = field(default=0, init=False)
    _probe_out: bool = field(default=False, init=False)
    _probe_at: float = field(default=0.0, init=False)
    _pauses: int = field(default=0, init=False)
    _paused_at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Start with AIMD's first window, or the configured maximum if that is less."""
        self.window = min(START_WINDOW, float(self.max_concurrency))

    @property
    def outage(self) -> bool:
        """Whether nothing has succeeded for so long that only probes leave."""
        return self._outage_since is not None

    @property
    def probe_at(self) -> float | None:
        """When time alone lets the next send leave; ``None``: an answer must come first."""
        return self._probe_at if self.outage and not self._probe_out else None

    def has_room(self, now: float, in_flight: int) -> bool:
        """Return whether one more send may leave now."""
        if self.outage:
            return not self._probe_out and now >= self._probe_at
        return in_flight < int(self.window)

    def note_send(self) -> None:
        """Note that a send leaves: in an outage it is the probe."""
        self._probe_out = self.outage

    def note_success(self, in_flight: int) -> None:
        """Note a valid reply, or a refusal of mere content: the endpoint works."""
        self.failing_since = None
        self._outage_since = None
        self._failures = self._probes = self._pauses = 0
        self._probe_out = False
        if in_flight * 2 >= self.window:
            self.window = min(self.window + INCREASE, float(self.max_concurrency))

    def note_failure(self, now: float, sent_at: float) -> None:
        """Note that a send of ``sent_at`` failed in a way that may pass."""
        self.window = max(1.0, self.window * DECREASE)
        self._failures += 1
        if self.failing_since is None:
            self.failing_since = now
        if self._outage_since is None:
            if self._failures >= OUTAGE_FAILURES:
                self._outage_since = now
                self._plan_probe(now)
        elif sent_at >= self._outage_since and self._probe_out:
            self._plan_probe(now)

    def draw_pause(self, now: float, sent_at: float, hint: float | None) -> float:
        """Return the instant until which everyone pauses after a throttle reply.

        The hint is the minimum. Apart from it the pause doubles with each episode, up to 60 s;
        replies to sends that left before the last episode began belong to that one.
        """
        pause = hint or 0.0
        if self._paused_at is None or sent_at >= self._paused_at:
            pause = max(pause, self._draw(PAUSE_BASE_SECONDS, self._pauses))
            self._paused_at = now
            self._pauses += 1
        return now + pause

    def _plan_probe(self, now: float) -> None:
        self._probe_out = False
        self._probe_at = now + self._draw(PROBE_BASE_SECONDS, self._probes)
        self._probes += 1

    def _draw(self, base: float, doublings: int) -> float:
        longest = min(LONGEST_SECONDS, base * 2.0 ** min(doublings, 32))
        return longest * self.rng.uniform(0.5, 1.0)
