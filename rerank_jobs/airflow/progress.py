"""Progress of a task as a readable log line every few seconds; never a query or a document."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rerank_jobs.score import Progress

__all__ = ["describe_progress", "log_progress"]

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0


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
