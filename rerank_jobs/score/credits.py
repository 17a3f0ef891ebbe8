"""What a rate limit still allows: amounts that come back one window after their response. Pure.

A server that counts arrivals in a sliding window sees a request no later than its response leaves.
What returns one window after the *response* arrived can therefore never be used while the server
still counts the request that held it: no margin is needed, whether the window slides, is fixed, or
counts refused requests too. The price is latency / window of the throughput.
"""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Credits"]

_GRAINS = 4096
"""Returns of one window are kept in so many grains: memory does not grow with the limit."""

_ROUNDING = 1e-9


class Credits:
    """Never lets more than ``limit`` (requests, or tokens) stand in any window of the server.

    The first ``limit`` come evenly over the first window, from ``head`` at its start (below zero:
    that much later), since an earlier process may have spent the window that is still running.
    Instants are in seconds of one clock.
    """

    def __init__(self, limit: float, window: float, started: float, *, head: float = 0.0) -> None:
        """Start the first window at ``started``; raises ValueError unless limit and window are."""
        if limit <= 0 or window <= 0:
            raise ValueError("a pace needs a limit and a window above zero")
        self._limit = limit
        self._window = window
        self._started = started
        self._head = head
        self._grain = window / _GRAINS
        self._held = 0.0  # taken and not yet returned
        self._returns: deque[tuple[float, float]] = deque()

    def due(self, amount: float, now: float) -> float:
        """Return the instant from which ``amount`` may be taken; infinite: a response must come.

        An amount above the limit counts as the whole limit.
        """
        self._collect(now)
        need = min(amount, self._limit) + self._held
        earliest = self._ramp_reaches(need)
        for instant, returned in self._returns:
            if earliest <= instant:
                break
            need -= returned
            earliest = max(instant, self._ramp_reaches(need))
        return earliest

    def take(self, amount: float) -> None:
        """Hold ``amount``, which is due."""
        self._held += min(amount, self._limit)

    def give_back(self, amount: float, now: float, *, counted: float | None = None) -> None:
        """Let ``amount``, whose response has just come, return one window from ``now``.

        ``counted`` is what the server says that it counted in place of ``amount``.
        """
        amount = min(amount, self._limit)
        if counted is not None:
            self._held += counted - amount
            amount = counted
        # Rounded up: a grain later is safe, a grain earlier is not.
        instant = math.ceil((now + self._window) / self._grain) * self._grain
        if self._returns and self._returns[-1][0] >= instant:
            instant, waiting = self._returns.pop()
            amount += waiting
        self._returns.append((instant, amount))

    def _ramp_reaches(self, need: float) -> float:
        """When the first window alone has brought ``need``."""
        if need > self._limit + _ROUNDING:
            return math.inf
        return self._started + max(0.0, need - self._head) * self._window / self._limit

    def _collect(self, now: float) -> None:
        while self._returns and self._returns[0][0] <= now:
            self._held -= self._returns.popleft()[1]
