"""When the next send may leave: credits for requests and tokens, even spacing, one pause for all.

Spacing keeps the sends even, for servers whose window is short, and after a pause.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from aiolimiter import AsyncLimiter

from rerank_jobs.score.credits import Credits

__all__ = ["BURST", "HEAD_SHARE", "TOKEN_SLICES", "CountedShare", "Pace", "Pacer", "Pause"]

BURST = 4
"""Sends that may leave back to back to catch up with a late timer."""

HEAD_SHARE = 25
"""A first window begins up to BURST intervals late, and at most 1/25 of itself."""

TOKEN_SLICES = 16
"""Tokens are spaced over sixteenths of a window."""

LEARNING = 0.1
"""Weight of the newest reply in how the endpoint's count of tokens compares with the estimate."""


class Pace(Protocol):
    """Says when the next send may leave: by this process's limit, or by one that is shared."""

    pause: Pause

    def is_open(self, now: float) -> bool:
        """Return whether ``admit`` would not wait at all: no limit, and no pause at ``now``."""

    async def admit(self, tokens: int = 0) -> str:
        """Wait until one send of ``tokens`` may leave; return the credit that it holds."""

    def give_back(self, credit: str, tokens: int = 0, *, counted: int | None = None) -> None:
        """Return a credit, from one window after now: its response has just come.

        ``counted``: the tokens that the endpoint says it counted.
        """

    async def aclose(self) -> None:
        """Settle what is still open; nothing is admitted any more."""


class Pause:
    """One pause for all senders, in the running loop's time."""

    def __init__(self) -> None:
        """Begin without a pause."""
        self._loop = asyncio.get_running_loop()
        self.until = self._loop.time()

    def extend(self, instant: float) -> None:
        """Let nobody send before ``instant``; never shortens a pause."""
        self.until = max(self.until, instant)

    def is_over(self) -> bool:
        """Return whether sends may leave."""
        return self.until <= self._loop.time()

    async def wait(self) -> None:
        """Return when no pause is left, also none that began meanwhile."""
        while not self.is_over():
            await self.sleep_until(self.until)

    async def sleep_until(self, instant: float) -> None:
        """Sleep until ``instant``, and never less."""
        # A timer may fire within the clock's resolution too early: nothing but time is awaited.
        while (wait := instant - self._loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait)


class CountedShare:
    """How the endpoint's count of tokens compares with the estimates; 1 until it says something."""

    def __init__(self) -> None:
        """Begin with trust in the estimates."""
        self.value = 1.0

    def learn(self, tokens: int, counted: int) -> None:
        """Note what was counted in place of an estimate."""
        if tokens:
            self.value += LEARNING * (counted / tokens - self.value)


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
        self.pause = Pause()
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()
        self._requests = self._tokens = None
        self._spacing = self._token_spacing = None
        self._counted_share = CountedShare()
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

    def is_open(self, now: float) -> bool:
        """Return whether ``admit`` would not wait at all: no limit, and no pause at ``now``."""
        return self._requests is None and self._tokens is None and self.pause.until <= now

    async def admit(self, tokens: int = 0) -> str:
        """Wait until one send of ``tokens`` may leave; ``give_back`` must follow its response."""
        if self._requests is None and self._tokens is None:
            await self.pause.wait()
            return ""
        async with self._turn:
            while (due := self._due(tokens)) > self._loop.time():
                await self._wait_until(due)
            if self._requests is not None:
                self._requests.take(1)
            if self._tokens is not None:
                self._tokens.take(tokens)
            await self._space(tokens)
            while not self.pause.is_over():
                await self.pause.wait()
                await self._space(tokens)
        return ""

    def give_back(self, credit: str = "", tokens: int = 0, *, counted: int | None = None) -> None:
        """Return what one send held, from one window after now: its response has just come.

        ``counted``: the tokens that the endpoint says it counted. Credits have no names here.
        """
        del credit
        now = self._loop.time()
        if self._requests is not None:
            self._requests.give_back(1, now)
        if self._tokens is not None:
            self._tokens.give_back(tokens, now, counted=counted)
            if counted is not None:
                self._counted_share.learn(tokens, counted)
        self._returned.set()

    async def aclose(self) -> None:
        """Do nothing: nobody else knows these credits."""

    def _due(self, tokens: int) -> float:
        now = self._loop.time()
        due = self.pause.until
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
            amount = tokens * self._counted_share.value
            await self._token_spacing.acquire(min(amount, self._token_spacing.max_rate))

    async def _wait_until(self, instant: float) -> None:
        """Wait until the instant; where only a response can bring it, until one has come."""
        if math.isfinite(instant):
            await self.pause.sleep_until(instant)
            return
        self._returned.clear()
        await self._returned.wait()
