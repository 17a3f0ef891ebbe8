"""Rate limits as servers keep them, the clock passed in. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, Self, get_args

__all__ = ["RateLimit", "RateWindow", "WindowKind"]

WindowKind = Literal["sliding", "counting", "fixed"]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most so many requests and so many tokens in a window of ``window_seconds``.

    ``kind`` says how the server counts:

    - ``sliding``: any window of that length, wherever it starts; a refused request takes no room.
    - ``counting``: the same, but a refused request takes the room that it asked for, so a client
      that hammers is never served.
    - ``fixed``: windows one after the other, aligned to zero of the server's clock; twice the
      limit may pass around a boundary.

    A request counts query tokens x documents + document tokens, which is its
    ``usage.total_tokens``. One that has more tokens than the limit never fits. ``None`` means no
    limit. Raises ValueError for a limit without room.
    """

    requests: int | None = None
    tokens: int | None = None
    window_seconds: float = 60.0
    kind: WindowKind = "sliding"

    def __post_init__(self) -> None:
        """Refuse limits that would admit nothing, or that limit nothing."""
        given = [limit for limit in (self.requests, self.tokens) if limit is not None]
        if not given or min(given) < 1:
            raise ValueError("a rate limit needs room for at least one request or token")
        if not (math.isfinite(self.window_seconds) and self.window_seconds > 0):
            raise ValueError("a rate limit needs a window longer than zero")
        if self.kind not in get_args(WindowKind):
            raise ValueError(f"a rate limit's kind is one of {', '.join(get_args(WindowKind))}")

    @classmethod
    def per_minute(
        cls,
        requests: int | None = None,
        tokens: int | None = None,
        *,
        window_seconds: float = 60.0,
        kind: WindowKind = "sliding",
    ) -> Self:
        """Return a rate per minute, scaled down to its window: at least 1 of each."""

        def scale(rate: int | None) -> int | None:
            return None if rate is None else max(1, math.floor(rate * window_seconds / 60))

        return cls(scale(requests), scale(tokens), window_seconds, kind)


class RateWindow:
    """Keeps one rate limit: what was counted in the window that ends now."""

    def __init__(self, limit: RateLimit) -> None:
        """Start empty."""
        self.limit = limit
        self._counted: deque[tuple[float, int]] = deque()
        self._tokens = 0
        self._number = -math.inf

    def admit(self, now: float, tokens: int = 0) -> float:
        """Admit a request at ``now`` and return 0, or return the seconds until it would fit.

        ``now`` never falls. The wait holds if nothing else is sent meanwhile; a request that is
        larger than the limit is told a whole window.
        """
        self._forget(now)
        wait = self._measure_wait(now, tokens)
        if wait == 0 or self.limit.kind == "counting":
            self._counted.append((now, tokens))
            self._tokens += tokens
        return self._measure_wait(now, tokens) if wait else 0.0

    def _forget(self, now: float) -> None:
        counted, seconds = self._counted, self.limit.window_seconds
        if self.limit.kind == "fixed":
            number = now // seconds
            if number > self._number:
                self._number, self._tokens = number, 0
                counted.clear()
            return
        while counted and counted[0][0] + seconds <= now:
            self._tokens -= counted.popleft()[1]

    def _measure_wait(self, now: float, tokens: int) -> float:
        requests_over = _over(len(self._counted) + 1, self.limit.requests)
        tokens_over = _over(self._tokens + tokens, self.limit.tokens)
        if requests_over <= 0 and tokens_over <= 0:
            return 0.0
        seconds = self.limit.window_seconds
        if self.limit.kind == "fixed":
            return seconds - now % seconds
        for instant, spent in self._counted:
            requests_over -= 1
            tokens_over -= spent
            if requests_over <= 0 and tokens_over <= 0:
                return instant + seconds - now
        return seconds


def _over(wanted: int, limit: int | None) -> int:
    return 0 if limit is None else wanted - limit
