"""Pacing against a strict sliding-window server on simulated time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from rerank_jobs.score.pacing import BURST, Pacer
from tests.unit.score.fakes import SlidingWindow
from tests.unit.score.simulation import simulate

LIMIT, WINDOW = 100, 6.0
LOW, HIGH = 0.02, 0.12


async def drive(
    pacer: Pacer, *, seconds: float, workers: int, send: Callable[[], Awaitable[None]]
) -> None:
    """Let ``workers`` send through ``pacer`` as fast as it admits, for ``seconds``."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def work() -> None:
        while loop.time() < end:
            await pacer.admit()
            await send()
            pacer.give_back()

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def fill_server(
    server: SlidingWindow, *, seconds: float, rng: random.Random, pacer: Pacer | None = None
) -> None:
    loop = asyncio.get_running_loop()

    async def send() -> None:
        latency = rng.uniform(LOW, HIGH)
        share = rng.random()
        await asyncio.sleep(latency * share)
        server.admit(loop.time())
        await asyncio.sleep(latency * (1 - share))

    pacer = pacer or Pacer(LIMIT, WINDOW)
    await drive(pacer, seconds=seconds, workers=32, send=send)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_strict_server_refuses_nothing_and_its_limit_is_used(seed: int) -> None:
    """20 windows after the first: no refusal, and 99 % of what credits can give."""
    server = SlidingWindow(LIMIT, WINDOW)
    simulate(fill_server(server, seconds=21 * WINDOW, rng=random.Random(seed)))
    assert server.refused == 0
    steady = sum(WINDOW <= at < 21 * WINDOW for at in server.total) / 20
    assert steady >= 0.99 * LIMIT * WINDOW / (WINDOW + (LOW + HIGH) / 2)


def test_the_first_window_is_neither_doubled_nor_idle() -> None:
    """A new process spreads its first window evenly: an earlier one may have spent it."""
    server = SlidingWindow(LIMIT, WINDOW)
    simulate(fill_server(server, seconds=WINDOW, rng=random.Random(4)))
    for part in range(1, 7):
        arrived = sum(at < part * WINDOW / 6 for at in server.total)
        assert 0.9 * LIMIT * part / 6 - BURST <= arrived <= LIMIT * part / 6 + 1


@pytest.mark.parametrize("seed", range(12))
def test_a_restart_meets_no_refusal_in_the_running_window(seed: int) -> None:
    """A second process that begins the moment the first one ends sends nothing that is refused."""
    server = SlidingWindow(LIMIT, WINDOW)

    async def restart() -> None:
        rng = random.Random(seed)
        await fill_server(server, seconds=(1.2 + rng.random() * 3) * WINDOW, rng=rng)
        await fill_server(server, seconds=3 * WINDOW, rng=rng)

    simulate(restart())
    assert server.refused == 0


def test_slow_responses_hold_their_credits() -> None:
    """A server that counts arrivals at the very end of the latency still refuses nothing."""
    server = SlidingWindow(LIMIT, WINDOW)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        rng = random.Random(6)

        async def send() -> None:
            await asyncio.sleep(rng.choice([0.0, 3.0]))
            server.admit(loop.time())

        await drive(Pacer(LIMIT, WINDOW), seconds=10 * WINDOW, workers=200, send=send)

    simulate(main())
    assert server.refused == 0


def test_sends_are_spaced() -> None:
    """Credits that pile up are not spent in a burst: four back to back, then one per interval."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        pacer = Pacer(LIMIT, WINDOW)
        await asyncio.sleep(WINDOW)
        sent: list[float] = []

        async def send() -> None:
            sent.append(loop.time())

        await drive(pacer, seconds=1.0, workers=50, send=send)
        return sent

    sent = simulate(main())
    interval = WINDOW / LIMIT
    assert sent[3] - sent[0] < 0.001
    for earlier, later in zip(sent, sent[10:], strict=False):
        assert later - earlier >= (10 - 4) * interval - 0.001


def test_a_pause_holds_everyone_back() -> None:
    """Nobody is admitted before the end of a pause, also those that wait already."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        pacer = Pacer(LIMIT, WINDOW)
        sent: list[float] = []

        async def send() -> None:
            sent.append(loop.time())

        loop.call_later(1.0, pacer.pause.extend, 18.0)
        await drive(pacer, seconds=30.0, workers=20, send=send)
        return sent

    sent = simulate(main())
    assert [at for at in sent if 1.0 < at < 18.0] == []
    assert any(at > 18.0 for at in sent)


def test_a_pause_is_never_shortened() -> None:
    """Of two pauses the later end counts."""

    async def main() -> float:
        pacer = Pacer(None)
        pacer.pause.extend(20.0)
        pacer.pause.extend(5.0)
        await pacer.admit()
        return asyncio.get_running_loop().time()

    assert simulate(main()) >= 20.0


def test_no_limit_admits_at_once() -> None:
    """Unpaced sends do not wait."""

    async def main() -> float:
        pacer = Pacer(None)
        for _ in range(10_000):
            await pacer.admit()
            pacer.give_back()
        return asyncio.get_running_loop().time()

    assert simulate(main()) < 0.001


@pytest.mark.parametrize(("limit", "window"), [(0, 60.0), (5, 0.0), (-1, 1.0)])
def test_a_pace_must_be_possible(limit: int, window: float) -> None:
    """No send per window, or no window, is refused."""

    async def main() -> None:
        Pacer(limit, window)

    with pytest.raises(ValueError, match="pace"):
        simulate(main())
