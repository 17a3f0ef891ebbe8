"""A strict sliding-window rate limit, the clock passed in. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["SlidingWindow"]


class SlidingWindow:
    """Admits at most ``limit`` requests in any window of ``seconds``, wherever the window starts.

    A refused request takes no room in the window.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        """Start empty; raises ValueError unless both are positive."""
        if limit < 1 or seconds <= 0:
            msg = "a rate limit needs at least one request and a window longer than zero"
            raise ValueError(msg)
        self.limit = limit
        self.seconds = seconds
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> float:
        """Admit a request at ``now`` and return 0, or return the seconds until one would fit."""
        admitted = self._admitted
        while admitted and admitted[0] + self.seconds <= now:
            admitted.popleft()
        if len(admitted) >= self.limit:
            return admitted[0] + self.seconds - now
        admitted.append(now)
        return 0.0
