"""Runs as processes of their own, forked from a server that has imported everything once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import httpx

from tests.crash.runner import Order, run

__all__ = ["Bill", "read_bill", "run_process", "settle", "start_process"]

DEADLINE = 120.0


def _make_context() -> ForkServerContext:
    # Threads do not survive a fork: the server must have none that matter when it forks.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash.runner"])
    return context


CONTEXT = _make_context()


def start_process(order: Order) -> ForkServerProcess:
    """Start a run whose log is new; return once it answers signals."""
    process = CONTEXT.Process(target=run, args=(order,))
    process.start()
    end = time.monotonic() + DEADLINE
    while not order.log.exists() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    return process


def run_process(
    order: Order, disturb: Callable[[ForkServerProcess], None] = lambda _process: None
) -> tuple[int, float]:
    """Run to the end; return the exit code, minus the signal if one ended it, and seconds taken."""
    process = start_process(order)
    started = time.monotonic()
    disturb(process)
    process.join(DEADLINE)
    if process.exitcode is None:
        send_signal(process, signal.SIGKILL)
        raise TimeoutError(f"{order.arguments}: still running after {DEADLINE:.0f} s: {order.log}")
    return process.exitcode, time.monotonic() - started


def send_signal(process: ForkServerProcess, number: int) -> bool:
    """Send a signal to a run; say whether it was still there."""
    if not process.is_alive() or process.pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
        return True
    return False


@dataclass(frozen=True, slots=True)
class Bill:
    """What the counting server has billed so far."""

    passages: int
    cost_usd: float


def settle(url: str) -> Bill:
    """Return the bill once requests that a dead client had sent have arrived."""
    last = -1
    for _ in range(200):
        stats = httpx.get(url.replace("/api/v1", "/stats")).json()
        if stats["passages"] == last:
            return Bill(last, stats["cost_usd"])
        last = stats["passages"]
        time.sleep(0.03)
    raise TimeoutError("the server's bill does not come to rest")


def read_bill(url: str) -> dict[str, int]:
    """Return how often each pair was billed, by the server's name of it."""
    pairs: dict[str, Any] = httpx.get(url.replace("/api/v1", "/bill")).json()["pairs"]
    return pairs


def read_log(path: Path) -> str:
    """Return the end of a run's output."""
    return path.read_text(errors="replace")[-2000:]
