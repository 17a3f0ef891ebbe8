"""When the next send may leave: credits for requests and tokens, even spacing, one pause for all.

Spacing keeps the sends even, for servers whose window is short, and after a pause.
"""

from __future__ import annotations

import asyncio
import math

from aiolimiter import AsyncLimiter

from rerank_jobs.score.credits import Credits

__all__ = ["BURST", "Pacer"]

BURST = 4
"""Sends that may leave back to back to catch up with a late timer."""

HEAD_SHARE = 25
"""A first window begins up to BURST intervals late, and at most 1/25 of itself."""

TOKEN_SLICES = 16
"""Tokens are spaced over sixteenths of a window."""

LEARNING = 0.1
"""Weight of the newest reply in how the endpoint's count of tokens compares with the estimate."""


class Pacer:
    """Admits at most ``limit`` sends, and ``token_limit`` tokens, in any window of the server.

    ``None`` is no limit. One caller is admitted at a time, in order of asking, so a heavy send is
    not starved by light ones. Time is the running loop's; make it inside the loop that uses it.
    """

    def __init__(
        self, limit: int | None, window_seconds: float = 60.0, token_limit: int | None = None
    ) -> None:
        """Start the first window now; raises ValueError unless every limit is positive."""
        self._loop = asyncio.get_running_loop()
        self._paused_until = self._loop.time()
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()
        self._requests = self._tokens = None
        self._spacing = self._token_spacing = None
        self._counted_share = 1.0
        now = self._loop.time()
        if limit is not None:
            # The last process may have sent a burst just before it ended.
            late = min(BURST, limit // HEAD_SHARE)
            self._requests = Credits(limit, window_seconds, now, head=1.0 - late)
            self._spacing = AsyncLimiter(BURST, BURST * window_seconds / limit)
        if token_limit is not None:
            self._tokens = Credits(token_limit, window_seconds, now)
            self._token_spacing = AsyncLimiter(
                token_limit / TOKEN_SLICES, window_seconds / TOKEN_SLICES
            )

    @property
    def paused_until(self) -> float:
        """The instant, in loop time, before which nobody sends."""
        return self._paused_until

    def pause_until(self, instant: float) -> None:
        """Let nobody send before ``instant`` (loop time); never shortens a pause."""
        self._paused_until = max(self._paused_until, instant)

    def is_open(self, now: float) -> bool:
        """Return whether ``admit`` would not wait at all: no limit, and no pause at ``now``."""
        return self._requests is None and self._tokens is None and self._paused_until <= now

    async def admit(self, tokens: int = 0) -> None:
        """Wait until one send of ``tokens`` may leave; ``give_back`` must follow its response."""
        if self._requests is None and self._tokens is None:
            while self._paused_until > self._loop.time():
                await self._sleep_until(self._paused_until)
            return
        async with self._turn:
            while (due := self._due(tokens)) > self._loop.time():
                await self._wait_until(due)
            if self._requests is not None:
                self._requests.take(1)
            if self._tokens is not None:
                self._tokens.take(tokens)
            await self._space(tokens)
            while self._paused_until > self._loop.time():
                await self._sleep_until(self._paused_until)
                await self._space(tokens)

    def give_back(self, tokens: int = 0, *, counted: int | None = None) -> None:
        """Return what one send held, from one window after now: its response has just come.

        ``counted``: the tokens that the endpoint says it counted.
        """
        now = self._loop.time()
        if self._requests is not None:
            self._requests.give_back(1, now)
        if self._tokens is not None:
            self._tokens.give_back(tokens, now, counted=counted)
            if counted is not None and tokens:
                self._counted_share += LEARNING * (counted / tokens - self._counted_share)
        self._returned.set()

    def _due(self, tokens: int) -> float:
        now = self._loop.time()
        due = self._paused_until
        if self._requests is not None:
            due = max(due, self._requests.due(1, now))
        if self._tokens is not None:
            due = max(due, self._tokens.due(tokens, now))
        return due

    async def _space(self, tokens: int) -> None:
        if self._spacing is not None:
            await self._spacing.acquire()
        if self._token_spacing is not None:
            # Spaced by what the endpoint will count; held, until it says so, by the estimate.
            amount = tokens * self._counted_share
            await self._token_spacing.acquire(min(amount, self._token_spacing.max_rate))

    async def _wait_until(self, instant: float) -> None:
        """Wait until the instant; where only a response can bring it, until one has come."""
        if math.isfinite(instant):
            await self._sleep_until(instant)
            return
        self._returned.clear()
        await self._returned.wait()

    async def _sleep_until(self, instant: float) -> None:
        # A timer may fire within the clock's resolution too early: nothing but time is awaited.
        while (wait := instant - self._loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait)
