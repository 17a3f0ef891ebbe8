"""Progress of a task: a log line every few seconds, its state in the UI, its metrics.

Never a query or a document.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rerank_jobs.score import Progress

__all__ = ["STATE_KEY", "describe_progress", "log_progress", "make_state_sink", "tell_progress"]

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0

STATE_KEY = "progress"
"""Of the task state store; the UI shows it in a tab of the task instance."""

JOIN_SECONDS = 30.0

Sink = Callable[[Progress, int], None]


def log_progress(
    label: str,
    requests: int,
    *,
    every: float = LINE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[Progress], None]:
    """Return an observer that logs one line at most every ``every`` seconds.

    ``requests`` is how many the plan has; those that an earlier try sealed are not sent again.
    """
    started = last = clock()

    def observe(now: Progress) -> None:
        nonlocal last
        instant = clock()
        if instant - last < every:
            return
        last = instant
        log.info("%s: %s", label, describe_progress(now, requests, instant - started))

    return observe


@contextlib.contextmanager
def tell_progress(*sinks: Sink, every: float = LINE_SECONDS) -> Iterator[Sink]:
    """Yield an observer that keeps ``sinks`` up to date, from a thread of its own.

    The observer only notes its snapshot and the number of planned requests, so the event loop that
    calls it waits for nothing. Each sink gets the newest one at most every ``every`` seconds, and
    the last one at the end, also of a run that fails; without a snapshot none is called. What a
    sink raises is logged once, by its type, and goes no further.

    While this is open nothing else may talk to Airflow: its calls of one process share a socket,
    and under ``dag.test()`` they have no lock.
    """
    newest: list[tuple[Progress, int]] = []
    closing = threading.Event()

    def note(now: Progress, requests: int) -> None:
        newest[:] = [(now, requests)]

    def tell() -> None:
        silent: set[int] = set()
        while True:
            closed = closing.wait(every)
            taken = newest[:]
            if taken:
                newest.clear()
                _call(sinks, *taken[0], silent)
            if closed:
                return

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield note
    finally:
        closing.set()
        thread.join(JOIN_SECONDS)


def _call(sinks: tuple[Sink, ...], now: Progress, requests: int, silent: set[int]) -> None:
    for number, sink in enumerate(sinks):
        try:
            sink(now, requests)
        except Exception as error:  # noqa: BLE001 - scoring goes on, whatever watches it
            if number not in silent:
                silent.add(number)
                log.warning("Progress cannot be told (%s): scoring goes on", type(error).__name__)


def make_state_sink(store: Any) -> Sink:
    """Return a sink that keeps a line in the task's state store; nothing ever resumes from it."""
    started = time.monotonic()

    def show(now: Progress, requests: int) -> None:
        store.set(STATE_KEY, describe_progress(now, requests, time.monotonic() - started))

    return show


def describe_progress(now: Progress, requests: int, elapsed: float) -> str:
    """Return a snapshot in one line; ``elapsed`` is in seconds."""
    limit = f" of {now.limit_per_minute:,.0f}" if now.limit_per_minute else ""
    parts = [
        f"{now.replies:,} of {requests:,} requests",
        f"{now.passages_scored:,} passages",
        f"${now.cost_usd:,.3f}",
        f"{now.per_minute:,.0f}{limit} a minute",
    ]
    if now.replies:
        left = max(0, requests - now.replies) * elapsed / now.replies
        parts.append(f"about {left:,.0f} s left")
    if now.passages_failed:
        parts.append(f"{now.passages_failed:,} passages refused")
    if now.deferred:
        parts.append(f"{now.deferred:,} waiting to be sent again")
    if now.pause_seconds > 0:
        parts.append(f"paused for {now.pause_seconds:.0f} s (429)")
    return ", ".join(parts)
