"""Score requests against an endpoint: one dispatcher, bounded sends, every outcome handed over.

The dispatcher decides what leaves next and when; each send is a task of its own, at most
``max_concurrency`` of them. What an answer means is decided in ``policy`` and drawn in ``judge``;
``overload`` says how much may be in flight, ``pacing`` when the next send leaves, ``allowance`` for
how much money.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from rerank_jobs.dollars import show_usd
from rerank_jobs.errors import BudgetStop, Interrupted, LimitStop, RerankJobsError, RuntimeStop
from rerank_jobs.model import Outcome, Request, ScoreTotals
from rerank_jobs.score.allowance import Allowance
from rerank_jobs.score.client import RerankClient
from rerank_jobs.score.exchange import Answer, Dialect, Lost, Reply
from rerank_jobs.score.judge import Judge, Shorten
from rerank_jobs.score.lanes import Lanes
from rerank_jobs.score.meter import Meter, Progress
from rerank_jobs.score.narrowing import Attempt
from rerank_jobs.score.overload import Overload
from rerank_jobs.score.pacing import Pace, Pacer
from rerank_jobs.score.settings import ScoreSettings
from rerank_jobs.score.shared_pacing import LimitStore, SharedPacer

__all__ = ["ScoreResult", "score_requests"]

DEFERRED_PER_SLOT = 16
"""Deferred requests, which hold texts, that are kept for each concurrent send."""

OBSERVE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What the run did; ``stop`` says why it ended early, ``None`` that nothing is left."""

    totals: ScoreTotals
    stop: RerankJobsError | None


async def score_requests(  # noqa: PLR0913
    requests: Iterable[Request],
    *,
    settings: ScoreSettings,
    client: RerankClient,
    dialect: Dialect,
    accept: Callable[[Outcome], Awaitable[None]],
    shorten: Shorten | None = None,
    observe: Callable[[Progress], None] | None = None,
    conclude: Callable[[ScoreTotals], None] | None = None,
    stop: asyncio.Event | None = None,
    limit_store: LimitStore | None = None,
    rng: random.Random | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> ScoreResult:
    """Send every request until each passage has an outcome, handed to ``accept`` once.

    A request is never given up for a cause that may pass. One that is refused for its content is
    split until the guilty passage stands alone; that one fails, or ``shorten`` cuts it if it is too
    long, and the others are scored. ``accept`` is awaited before the send's slot is free again,
    which is how a slow ledger slows the sending. The run ends early, with ``ScoreResult.stop`` set,
    on a refused key, spent credit, quota or allowance, after ``max_seconds``, when nothing
    succeeded for ``patience_seconds``, and when ``stop`` is set: then nothing more is sent, and
    what is in flight is waited for and accepted. Requests without an outcome stay unscored.

    With ``limit_store`` the rate limit is shared with other processes, and the settings' own is not
    used; a store that stays away for ``patience_seconds`` ends the run early too.

    ``requests`` is read lazily in a worker thread. ``observe`` gets at most ten snapshots a second,
    ``conclude`` the totals at the end, also where an exception is that: they tell what it cost.
    Time is the running loop's; ``wall_clock`` (seconds since the epoch) only dates replies.

    Raises:
        Exception: what ``accept``, ``observe`` or ``requests`` raised, after the sends in flight
            were waited for and, as far as possible, accepted.

    """
    run = _Run(
        requests,
        settings=settings,
        client=client,
        dialect=dialect,
        pace=_make_pace(settings, limit_store),
        accept=accept,
        shorten=shorten,
        observe=observe,
        rng=rng or random.Random(),  # noqa: S311 - jitter
        wall_clock=wall_clock,
    )
    return await run.complete(stop, conclude)


def _make_pace(settings: ScoreSettings, limit_store: LimitStore | None) -> Pace:
    if limit_store is None:
        return Pacer(settings.limit, settings.window_seconds, settings.token_limit)
    return SharedPacer(limit_store, settings.window_seconds, settings.patience_seconds)


class _Run:
    """The state that one dispatcher and its sends share."""

    def __init__(  # noqa: PLR0913
        self,
        requests: Iterable[Request],
        *,
        settings: ScoreSettings,
        client: RerankClient,
        dialect: Dialect,
        pace: Pace,
        accept: Callable[[Outcome], Awaitable[None]],
        shorten: Shorten | None,
        observe: Callable[[Progress], None] | None,
        rng: random.Random,
        wall_clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._client = client
        self._dialect = dialect
        self._observe = observe
        self._time = asyncio.get_running_loop().time
        self._changed = asyncio.Event()
        self._lanes = Lanes(
            requests,
            max_deferred=DEFERRED_PER_SLOT * settings.max_concurrency,
            changed=self._changed,
        )
        self._pace = pace
        self._overload = Overload(settings.max_concurrency, rng)
        self._allowance = Allowance(settings.allowance_usd)
        self._meter = Meter(settings.window_seconds, self._time(), settings.limit)
        self._judge = Judge(
            settings=settings,
            dialect=dialect,
            accept=accept,
            shorten=shorten,
            lanes=self._lanes,
            pace=pace,
            overload=self._overload,
            allowance=self._allowance,
            meter=self._meter,
            rng=rng,
            wall_clock=wall_clock,
        )
        self._sends: dict[Attempt, asyncio.Task[None]] = {}
        self._on_wire: set[Attempt] = set()
        self._stop: RerankJobsError | None = None
        self._crash: Exception | None = None
        self._later_crashes = 0
        self._grace_ends = float("inf")
        self._dispatcher: asyncio.Task[None] | None = None
        self._observed_at = float("-inf")

    async def complete(
        self, stop: asyncio.Event | None, conclude: Callable[[ScoreTotals], None] | None
    ) -> ScoreResult:
        watcher = asyncio.create_task(self._watch(stop)) if stop is not None else None
        self._dispatcher = asyncio.create_task(self._dispatch())
        alarm = self._set_alarm()
        try:
            await asyncio.wait({self._dispatcher})
            await self._drain()
        finally:
            if alarm is not None:
                alarm.cancel()
            await self._clean_up(watcher)
        totals = self._meter.totals(self._time())
        if conclude is not None:
            conclude(totals)
        if self._crash is not None:
            if self._later_crashes:
                self._crash.add_note(f"{self._later_crashes} more sends ended in an error")
            raise self._crash
        self._report(last=True)
        return ScoreResult(totals, self._stop)

    # The dispatcher.

    async def _dispatch(self) -> None:
        try:
            while (attempt := await self._next_attempt()) is not None:
                if not await self._reserve(attempt):
                    self._halt(self._budget_stop())
                    return
                attempt.credit = await self._pace.admit(self._tokens(attempt))
                self._overload.note_send()
                self._sends[attempt] = asyncio.create_task(self._send(attempt))
        except LimitStop as stop:
            self._halt(stop)
        except Exception as error:  # noqa: BLE001 - raised by complete(), after the drain
            self._fail(error)

    async def _next_attempt(self) -> Attempt | None:
        """Wait for something to send; ``None`` when every request has its outcome."""
        while True:
            now = self._time()
            if not self._overload.has_room(now, len(self._sends)):
                await self._wait(self._overload.probe_at)
                continue
            attempt = self._lanes.take(now, probing=self._overload.outage)
            if attempt is not None:
                return attempt
            if self._lanes.empty and not self._sends:
                return None
            await self._wait(self._lanes.next_due())

    async def _reserve(self, attempt: Attempt) -> bool:
        """Wait for room in the allowance; false when nothing in flight can make any."""
        while not self._allowance.admit(self._judge.planned_usd(attempt)):
            if not self._sends:
                return False
            await self._wait(None)
        return True

    async def _wait(self, until: float | None) -> None:
        """Wait until something changed, or until the instant."""
        self._changed.clear()
        if until is None:
            await self._changed.wait()
            return
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return  # the instant has come

    # One send.

    async def _send(self, attempt: Attempt) -> None:
        """Send an attempt, and after it whatever may leave at once: not each gets its own task."""
        following: Attempt | None = attempt
        while following is not None:
            attempt, following = following, None
            try:
                if self._stop is None and self._crash is None:
                    await self._exchange(attempt)
                    self._report()
                    following = self._follow()
            except Exception as error:  # noqa: BLE001 - raised by complete(), after the drain
                self._fail(error)
            finally:
                task = self._sends.pop(attempt)
                if following is None:
                    self._changed.set()
                else:
                    self._sends[following] = task

    def _follow(self) -> Attempt | None:
        """Return what may leave in place of a finished send; ``None``: the dispatcher decides."""
        now, others = self._time(), len(self._sends) - 1
        if self._stop is not None or self._overload.outage or not self._pace.is_open(now):
            return None
        if not self._overload.has_room(now, others):
            return None
        following = self._lanes.take(now)
        if following is None:
            return None
        if not self._allowance.admit(self._judge.planned_usd(following)):
            self._lanes.put_first([following])
            return None
        self._overload.note_send()
        if self._overload.has_room(now, others + 1):
            self._changed.set()  # the window has grown: one more may leave beside it
        return following

    async def _exchange(self, attempt: Attempt) -> None:
        answer = await self._post(attempt)
        reading = self._judge.read(attempt, answer)
        counted = reading.usage.total_tokens if isinstance(reading, Reply) else None
        self._pace.give_back(attempt.credit, self._tokens(attempt), counted=counted)
        latency = answer.latency_seconds if isinstance(answer, Answer) else 0.0
        if error := await self._judge.settle(attempt, reading, latency, len(self._sends)):
            self._halt(error)

    async def _post(self, attempt: Attempt) -> Answer | Lost:
        settings = self._settings
        body = self._dialect.encode(
            settings.target.model, attempt.request.query, attempt.texts, settings.fields
        )
        self._meter.sends += 1
        self._meter.retries += attempt.sends > 0
        attempt.sends += 1
        attempt.sent_at = self._time()
        self._on_wire.add(attempt)
        try:
            return await self._client.send(body)
        except BaseException:
            self._judge.lose(attempt)
            raise
        finally:
            self._on_wire.discard(attempt)

    def _tokens(self, attempt: Attempt) -> int:
        """Tokens that the send takes of its limit; nobody counts them where there is none."""
        return 0 if self._settings.token_limit is None else attempt.request.tokens

    # Ending.

    def _set_alarm(self) -> asyncio.TimerHandle | None:
        seconds = self._settings.max_seconds
        if seconds is None:
            return None
        error = RuntimeStop("max_runtime is over: every paid score is kept; run again to go on")
        loop = asyncio.get_running_loop()
        return loop.call_later(max(0.0, seconds), self._halt, error)

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._halt(Interrupted("interrupted: every paid score is kept; run again to go on"))
        self._end_grace_in(self._settings.grace_seconds)

    def _halt(self, error: RerankJobsError) -> None:
        """Send nothing more; the first reason counts."""
        if self._stop is None:
            self._stop = error
            self._end_dispatch()

    def _fail(self, error: Exception) -> None:
        if self._crash is None:
            self._crash = error
            self._end_dispatch()
        else:
            self._later_crashes += 1

    def _end_dispatch(self) -> None:
        self._end_grace_in(self._settings.timeout_seconds)
        if self._dispatcher is not None and self._dispatcher is not asyncio.current_task():
            self._dispatcher.cancel()

    def _end_grace_in(self, seconds: float) -> None:
        self._grace_ends = min(self._grace_ends, self._time() + seconds)
        self._changed.set()

    async def _drain(self) -> None:
        """Wait for what is in flight; what was answered is accepted even after the grace."""
        while self._on_wire:
            if self._time() >= self._grace_ends:
                for attempt in self._on_wire:
                    self._sends[attempt].cancel()
                break
            await self._wait(self._grace_ends)
        if self._sends:
            await asyncio.wait(set(self._sends.values()))

    async def _clean_up(self, watcher: asyncio.Task[None] | None) -> None:
        others = (watcher, self._dispatcher)
        tasks = {*self._sends.values(), *(task for task in others if task is not None)}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._pace.aclose()
        await self._lanes.aclose()

    def _budget_stop(self) -> BudgetStop:
        spent = self._allowance
        return BudgetStop(
            f"the allowance of {show_usd(spent.limit_usd or 0.0)} is spent"
            f" ({show_usd(spent.reported_usd)} reported, {show_usd(spent.estimated_usd)} estimated,"
            f" {show_usd(spent.unknown_usd)} of unknown fate), because replies cost more than"
            " planned: look at the drift, then run again with --extra-usd AMOUNT"
        )

    def _report(self, *, last: bool = False) -> None:
        now = self._time()
        if self._observe is None or (not last and now - self._observed_at < OBSERVE_SECONDS):
            return
        self._observed_at = now
        meter, limit = self._meter, self._settings.limit
        self._observe(
            Progress(
                sends=meter.sends,
                replies=meter.replies,
                passages_scored=meter.passages_scored,
                passages_failed=meter.passages_failed,
                search_units=meter.search_units,
                cost_usd=meter.cost_usd,
                unknown_usd=meter.unknown_usd,
                in_flight=len(self._sends),
                deferred=self._lanes.deferred,
                per_minute=meter.rate_per_minute(now),
                limit_per_minute=limit and limit * 60 / self._settings.window_seconds,
                throttled=meter.throttled,
                pause_seconds=max(0.0, self._pace.pause.until - now),
            )
        )
