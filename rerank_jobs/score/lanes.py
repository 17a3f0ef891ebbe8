"""Which request goes next: fresh ones, read ahead in bounded chunks, and those that must wait.

A request whose send failed waits in the deferred lane. While fresh requests remain it comes back
at no more than a tenth of the success rate, so that retries never crowd out work that may
succeed; when none remain, or the lane is full, the lane is the work. The pieces of a
request that was refused for its content go before everything else: they are not failing.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count

from rerank_jobs.model import Request
from rerank_jobs.score.narrowing import Attempt

__all__ = ["Lanes"]

READ_AHEAD = 64
READ_AHEAD_CHARS = 4_000_000
"""Requests, or characters of text, pulled at once; at most twice as much is held unsent."""

SUCCESSES_PER_RETRY = 10
MOST_SAVED_RETRIES = 10


class Lanes:
    """Hands out every request exactly once, and again whenever it was deferred.

    ``requests`` is iterated in a worker thread, one call at a time, and only as far as needed.
    ``changed`` is set when a chunk has arrived.
    """

    def __init__(
        self, requests: Iterable[Request], *, max_deferred: int, changed: asyncio.Event
    ) -> None:
        """Start reading ahead."""
        self._source: Iterator[Request] = iter(requests)
        self._max_deferred = max_deferred
        self._changed = changed
        self._fresh: deque[tuple[Request, int]] = deque()
        self._fresh_chars = 0
        self._first: deque[Attempt] = deque()
        self._exhausted = False
        self._pull: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._deferred: list[tuple[float, int, Attempt]] = []
        self._order = count()
        self._saved_successes = 0
        self._read_ahead()

    @property
    def deferred(self) -> int:
        """How many requests wait to be sent again."""
        return len(self._deferred)

    @property
    def fresh_remain(self) -> bool:
        """Whether requests that were never sent are left."""
        return bool(self._fresh) or not self._exhausted

    @property
    def empty(self) -> bool:
        """Whether nothing is left to hand out."""
        return not self._deferred and not self._first and not self.fresh_remain

    def take(self, now: float, *, probing: bool = False) -> Attempt | None:
        """Return what to send now, ``None`` if nothing is ready; raises what the source raised.

        A probe takes the oldest deferred request, due or not: an outage must not fill the lane.
        """
        if self._error is not None:
            raise self._error
        if self._deferred and (probing or self._deferred_is_ready(now)):
            return heapq.heappop(self._deferred)[2]
        if self._first:
            return self._first.popleft()
        if self._fresh and not self._full:
            request, chars = self._fresh.popleft()
            self._fresh_chars -= chars
            self._read_ahead()
            return Attempt(request)
        return None

    def next_due(self) -> float | None:
        """Return when time alone makes ``take`` succeed; ``None``: something must happen first."""
        if not self._deferred or (self.fresh_remain and not self._full):
            return None
        return self._deferred[0][0]

    def defer(self, attempt: Attempt, due: float) -> None:
        """Keep ``attempt`` until ``due`` (loop time) at least."""
        heapq.heappush(self._deferred, (due, next(self._order), attempt))

    def put_first(self, attempts: Iterable[Attempt]) -> None:
        """Hand these out next, in order: what a refused request was split into."""
        self._first.extend(attempts)

    def note_success(self) -> None:
        """Note that a request succeeded: a tenth of a retry is earned."""
        most = SUCCESSES_PER_RETRY * MOST_SAVED_RETRIES
        self._saved_successes = min(self._saved_successes + 1, most)

    async def aclose(self) -> None:
        """Wait until the source is no longer being read."""
        if self._pull is not None:
            await asyncio.wait({self._pull})

    @property
    def _full(self) -> bool:
        return len(self._deferred) >= self._max_deferred

    def _deferred_is_ready(self, now: float) -> bool:
        if self._deferred[0][0] > now:
            return False
        if not self.fresh_remain or self._full:
            return True
        if self._saved_successes < SUCCESSES_PER_RETRY:
            return False
        self._saved_successes -= SUCCESSES_PER_RETRY
        return True

    def _read_ahead(self) -> None:
        enough = len(self._fresh) >= READ_AHEAD or self._fresh_chars >= READ_AHEAD_CHARS
        if self._pull is None and not self._exhausted and not enough:
            self._pull = asyncio.create_task(self._read_chunk())

    async def _read_chunk(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            chunk, self._exhausted = await loop.run_in_executor(None, self._pull_chunk)
        except Exception as error:  # noqa: BLE001 - take() raises it where the caller can see it
            self._error = error
            chunk, self._exhausted = [], True
        self._fresh.extend(chunk)
        self._fresh_chars += sum(chars for _, chars in chunk)
        self._pull = None
        self._changed.set()

    def _pull_chunk(self) -> tuple[list[tuple[Request, int]], bool]:
        """Return requests with their characters, and whether they were the last ones."""
        chunk: list[tuple[Request, int]] = []
        total = 0
        for request in self._source:
            chars = sum(len(passage.text) for passage in request.passages)
            chunk.append((request, chars))
            total += chars
            if len(chunk) >= READ_AHEAD or total >= READ_AHEAD_CHARS:
                return chunk, False
        return chunk, True
