"""An event loop whose clock jumps: hours of scoring pass in milliseconds, in the same order."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

EPOCH = 1_790_000_000.0
"""What the wall clock shows when a simulation begins."""

TICK = 1e-6
"""Seconds that one round of the loop takes."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: it moves the clock to the next timer instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        events: list[Any] = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("the simulation is stuck: nothing is ready and no timer is set")
        # Even a busy loop takes time: timers rounded to "now" would repeat for ever otherwise.
        self.now += TICK if events or not timeout else max(timeout, TICK)
        return events


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop on simulated time; work for threads is done at once."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(
        self, _executor: object, func: Callable[..., Any], *args: object
    ) -> asyncio.Future[Any]:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - as an executor would hand it over
            done.set_exception(error)
        return done


def simulate(main: Coroutine[Any, Any, Result]) -> Result:
    """Run ``main`` to its end on simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)


def wall_clock() -> float:
    """Seconds since the epoch, as simulated."""
    return EPOCH + asyncio.get_running_loop().time()
