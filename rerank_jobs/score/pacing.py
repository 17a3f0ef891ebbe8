"""When the next send may leave: response-clocked credits, even spacing, one pause for everyone.

A server that counts arrivals in a sliding window sees a request no later than its response
leaves. A credit that returns one window after the *response* arrived can therefore never be used
while the server still counts the request that held it: no margin is needed, and the price is
latency / window of the throughput. Spacing keeps the sends even, for servers whose window is short.
"""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

__all__ = ["Pacer"]

BURST = 4
"""Sends that may leave back to back to catch up with a late timer."""


class Pacer:
    """Admits at most ``limit`` sends in any window of ``window_seconds``, as the server counts.

    The first ``limit`` credits come one per interval, since an earlier process may have spent
    the window that is still running. ``limit=None`` admits at once. Time is the running loop's;
    make it inside the loop that uses it.
    """

    def __init__(self, limit: int | None, window_seconds: float = 60.0) -> None:
        """Start the first window now; raises ValueError unless both are positive."""
        if window_seconds <= 0 or (limit is not None and limit < 1):
            raise ValueError("a pace needs at least one send and a window longer than zero")
        self._loop = asyncio.get_running_loop()
        self._window = window_seconds
        self._paused_until = self._loop.time()
        # The instants from which credits may be used, in order: a credit in flight is not here.
        self._credits: asyncio.Queue[float] | None = None
        if limit is not None:
            interval = window_seconds / limit
            self._spacing = AsyncLimiter(BURST, BURST * interval)
            self._credits = asyncio.Queue()
            for number in range(limit):
                self._credits.put_nowait(self._loop.time() + number * interval)

    @property
    def paused_until(self) -> float:
        """The instant, in loop time, before which nobody sends."""
        return self._paused_until

    def pause_until(self, instant: float) -> None:
        """Let nobody send before ``instant`` (loop time); never shortens a pause."""
        self._paused_until = max(self._paused_until, instant)

    async def admit(self) -> None:
        """Wait until one send may leave. ``give_back`` must follow when its fate is known."""
        if self._credits is not None:
            await self._sleep_until(await self._credits.get())
            await self._spacing.acquire()
        while self._paused_until > self._loop.time():
            await self._sleep_until(self._paused_until)
            if self._credits is not None:
                await self._spacing.acquire()

    def give_back(self) -> None:
        """Return one send's credit, from one window after now: its response has just arrived."""
        if self._credits is not None:
            self._credits.put_nowait(self._loop.time() + self._window)

    async def _sleep_until(self, instant: float) -> None:
        # A timer may fire within the clock's resolution too early: nothing but time is awaited.
        while (wait := instant - self._loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait)
