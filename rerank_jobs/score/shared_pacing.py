"""When the next send may leave under a limit that any number of processes share.

The credits stand in a store that all of them reach (``limit_store``). Each is booked before its
send, in order of asking, and comes back one window after the response. What a process that died
had booked comes back by itself, when no server can count it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol
from uuid import uuid4

from rerank_jobs.errors import LimitStop
from rerank_jobs.score.pacing import CountedShare, Pause

__all__ = ["USE_SECONDS", "LimitStore", "Return", "SharedPacer", "StoreAway"]

USE_SECONDS = 2.0
"""A send leaves at most so long after its credit is due, or books another one."""

RETURN_SECONDS = 0.25
"""Returns wait at most so long for a booking that takes them along."""

AHEAD_SECONDS = 0.25
"""A credit that was booked ahead is handed back so long after it was due."""

RECHECK_SECONDS = 1.0
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 0.5
"""Short: what was paid is sealed after it, and Airflow kills five seconds after SIGTERM."""


class StoreAway(Exception):
    """The store did not answer; what was asked may or may not have been done."""


@dataclass(frozen=True, slots=True)
class Return:
    """A credit that is handed back, ``age_seconds`` after its response; ``None``: it was not used.

    ``counted``: the tokens that the endpoint says it counted, ``None`` where it does not.
    """

    credit: str
    age_seconds: float | None
    counted: int | None = None


class LimitStore(Protocol):
    """Keeps the credits of all processes; whatever is asked twice is done once."""

    async def exchange(self, booked: str, spaced: int, returns: Sequence[Return]) -> float | None:
        """Take ``returns`` back, then book the credit ``booked`` (``NAME:TOKENS``; "": none).

        Return in how many seconds it may be used, below zero if that was possible earlier;
        ``None``: nobody knows yet, ask again. ``spaced``: the tokens that it is spaced by.

        Raises:
            StoreAway: no answer came.
            LimitStop: the store refuses us.

        """


@dataclass(frozen=True, slots=True)
class _Booked:
    credit: str
    due: float


@dataclass(frozen=True, slots=True)
class _Returned:
    credit: str
    answered_at: float | None
    counted: int | None


class SharedPacer:
    """Admits at most what the store's limits allow to all processes together.

    One caller is admitted at a time, and processes in order of asking. While one waits, the credit
    after it is booked already (where tokens have no limit: all requests are alike), so that a late
    timer or answer delays one send and not all that follow. Time is the running loop's.
    """

    def __init__(self, store: LimitStore, window_seconds: float, patience_seconds: float) -> None:
        """Begin; a store that is away for ``patience_seconds`` makes ``admit`` raise LimitStop."""
        self._loop = asyncio.get_running_loop()
        self.pause = Pause()
        self._store = store
        self._window = window_seconds
        self._patience = patience_seconds
        self._turn = asyncio.Lock()
        self._process = uuid4().hex
        self._numbers = count()
        self._counted_share = CountedShare()
        self._returned: list[_Returned] = []
        self._timer: asyncio.TimerHandle | None = None
        self._returning: asyncio.Task[None] | None = None
        self._ahead: _Booked | None = None
        self._ahead_ends: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def is_open(self, now: float) -> bool:  # noqa: ARG002
        """Return false: the store has to be asked."""
        return False

    async def admit(self, tokens: int = 0) -> str:
        """Wait until one send of ``tokens`` may leave; return the credit that it holds.

        Raises:
            LimitStop: the store is away or refuses us; without its word nothing is sent.

        """
        async with self._turn:
            while True:
                await self.pause.wait()
                if self._looking is not None:
                    await self._looking
                booked = self._take_ahead(tokens) or await self._book(tokens)
                if not tokens:
                    self._looking = self._loop.create_task(self._look_ahead())
                if await self._wait_for(booked):
                    return booked.credit

    def give_back(self, credit: str, tokens: int = 0, *, counted: int | None = None) -> None:
        """Return a credit, from one window after now: its response has just come.

        ``counted``: the tokens that the endpoint says it counted.
        """
        if counted is not None:
            self._counted_share.learn(tokens, counted)
        # Where no tokens were booked nobody limits them.
        self._hand_back(_Returned(credit, self._loop.time(), counted if tokens else None))

    async def aclose(self) -> None:
        """Hand back what is left; a store that does not answer has to wait for the credits' end."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        self._drop_ahead()
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(StoreAway, LimitStop, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._returning is not None:
                    await self._returning
                if self._returned:
                    await self._exchange()

    async def _wait_for(self, booked: _Booked) -> bool:
        """Wait until a credit is due; false: it could not be used in time and is handed back."""
        used = False
        try:
            await self.pause.sleep_until(booked.due)
            used = self.pause.is_over() and self._loop.time() <= booked.due + USE_SECONDS
        finally:
            if not used:
                self._hand_back(_Returned(booked.credit, None, None))
        return used

    async def _book(self, tokens: int) -> _Booked:
        credit, spaced = self._name(tokens), math.ceil(tokens * self._counted_share.value)
        booked = None
        try:
            wait = await self._insist(credit, spaced)
            while wait is None:
                await asyncio.sleep(min(RECHECK_SECONDS, self._window / 8))
                wait = await self._insist(credit, spaced)
            # The clock is read after the answer: our instant is never earlier than the store's.
            booked = _Booked(credit, self._loop.time() + wait)
        finally:
            if booked is None:
                self._hand_back(_Returned(credit, None, None))
        return booked

    async def _look_ahead(self) -> None:
        """Book the next credit, if its instant is known; what fails is left to the next caller."""
        credit, wait = self._name(0), None
        try:
            with contextlib.suppress(StoreAway, LimitStop):
                wait = await self._exchange(credit)
        finally:
            if wait is None:
                self._hand_back(_Returned(credit, None, None))
        if wait is not None:
            self._ahead = _Booked(credit, self._loop.time() + wait)
            ends = self._ahead.due + AHEAD_SECONDS
            self._ahead_ends = self._loop.call_at(ends, self._drop_ahead)

    def _take_ahead(self, tokens: int) -> _Booked | None:
        if tokens or self._ahead is None:
            return None
        booked, self._ahead = self._ahead, None
        if self._ahead_ends is not None:
            self._ahead_ends.cancel()
        return booked

    def _drop_ahead(self) -> None:
        if booked := self._take_ahead(0):
            self._hand_back(_Returned(booked.credit, None, None))

    def _name(self, tokens: int) -> str:
        return f"{self._process}-{next(self._numbers)}:{tokens}"

    async def _insist(self, credit: str, spaced: int) -> float | None:
        began = self._loop.time()
        while True:
            try:
                return await self._exchange(credit, spaced)
            except StoreAway as error:
                away = self._loop.time() - began
                if away >= self._patience:
                    raise LimitStop(
                        f"endpoint.limit_store gave no answer for {away:.0f} s ({error}), and"
                        " without it nothing is sent: run again when it is back"
                    ) from None
            await asyncio.sleep(RETRY_SECONDS)

    async def _exchange(self, credit: str = "", spaced: int = 0) -> float | None:
        """Ask the store once, and take along what is to be returned."""
        taken, self._returned = self._returned, []
        now = self._loop.time()
        done = False
        try:
            wait = await self._store.exchange(
                credit,
                spaced,
                [
                    Return(
                        one.credit,
                        None if one.answered_at is None else now - one.answered_at,
                        one.counted,
                    )
                    for one in taken
                ],
            )
            done = True
        finally:
            if not done:
                self._returned = taken + self._returned
        return wait

    def _hand_back(self, returned: _Returned) -> None:
        self._returned.append(returned)
        if self._timer is None:
            seconds = min(RETURN_SECONDS, self._window / 8)
            self._timer = self._loop.call_later(seconds, self._start_returning)

    def _start_returning(self) -> None:
        self._timer = None
        if self._returned and (self._returning is None or self._returning.done()):
            self._returning = self._loop.create_task(self._return_all())

    async def _return_all(self) -> None:
        # What fails now goes along with the next booking, or at the end.
        with contextlib.suppress(StoreAway, LimitStop):
            await self._exchange()
