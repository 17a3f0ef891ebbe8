"""Processes that share a limit, against strict servers, on simulated time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from rerank_jobs.errors import LimitStop
from rerank_jobs.score.pacing import BURST
from rerank_jobs.score.shared_pacing import USE_SECONDS, SharedPacer
from tests.unit.score.fakes import SlidingWindow
from tests.unit.score.limit_model import LimitModel, ModelStore, Rates
from tests.unit.score.simulation import simulate

LIMIT, WINDOW, TIMEOUT = 100, 6.0, 5.0
LIFE = USE_SECONDS + TIMEOUT + WINDOW
LOW, HIGH = 0.02, 0.12
RATES = Rates(LIMIT, None, WINDOW, LIFE)


@dataclass(slots=True)
class Process:
    """One process that shares a limit: its way to the store, its senders, what it has sent."""

    store: ModelStore
    server: SlidingWindow
    rng: random.Random
    patience: float = 60.0
    low: float = LOW
    high: float = HIGH
    sent: list[float] = field(default_factory=list)
    senders: list[asyncio.Task[None]] = field(default_factory=list)
    pacer: SharedPacer | None = None

    def start(self, *, requests: float = float("inf"), workers: int = 16) -> Process:
        """Begin to send so many requests, as fast as the pacer admits."""
        self.pacer = SharedPacer(self.store, WINDOW, self.patience)
        left = [requests]

        async def send() -> None:
            assert self.pacer is not None
            while left[0] > 0:
                left[0] -= 1
                credit = await self.pacer.admit()
                await self._exchange()
                self.pacer.give_back(credit)

        self.senders = [asyncio.create_task(send()) for _ in range(workers)]
        return self

    async def _exchange(self) -> None:
        loop = asyncio.get_running_loop()
        latency, share = self.rng.uniform(self.low, self.high), self.rng.random()
        self.sent.append(loop.time())
        # The server counts what was sent, whether or not the sender lives.
        loop.call_later(latency * share, lambda: self.server.admit(loop.time()))
        await asyncio.sleep(latency)

    async def end(self) -> None:
        """End as a run does: what is held is handed back."""
        await self._cancel()
        assert self.pacer is not None
        await self.pacer.aclose()

    async def kill(self) -> None:
        """End as SIGKILL ends it: nothing is handed back."""
        self.store.away = True
        await self._cancel()

    async def _cancel(self) -> None:
        for sender in self.senders:
            sender.cancel()
        await asyncio.wait(self.senders)


def make_process(
    model: LimitModel, server: SlidingWindow, seed: int, *, patience: float = 60.0, slow: float = 0
) -> Process:
    store = ModelStore(model, RATES)
    return Process(store, server, random.Random(seed), patience, LOW + slow, HIGH + slow)


def measure_share(server: SlidingWindow, begin: float, end: float) -> float:
    """Return what was accepted of what credits can give in that time."""
    accepted = sum(begin <= at < end for at in server.total)
    mean = (LOW + HIGH) / 2
    return accepted / (LIMIT * (end - begin) / (WINDOW + mean))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_whole_limit_is_used_whoever_has_work(seed: int) -> None:
    """Two processes, then one alone, then three: no refusal, and 99 % of what credits can give."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> None:
        first = make_process(model, server, seed).start()
        second = make_process(model, server, seed + 10).start(requests=200)
        await asyncio.sleep(5 * WINDOW)
        others = [make_process(model, server, seed + n).start() for n in (20, 30)]
        await asyncio.sleep(3 * WINDOW)
        assert len(second.sent) == 200
        for process in (first, second, *others):
            await process.end()

    simulate(main())
    assert server.refused == 0
    assert measure_share(server, WINDOW, 8 * WINDOW) >= 0.99


def test_processes_with_work_get_equal_parts() -> None:
    """Each of four sends a quarter, within a tenth of it, though one has far fewer senders."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> list[int]:
        processes = [make_process(model, server, n).start(workers=4 if n else 32) for n in range(4)]
        await asyncio.sleep(4 * WINDOW)
        for process in processes:
            await process.end()
        return [len(process.sent) for process in processes]

    counts = simulate(main())
    assert max(counts) - min(counts) <= 0.1 * sum(counts) / 4


@pytest.mark.parametrize("seed", range(3))
def test_the_part_of_a_killed_process_comes_back(seed: int) -> None:
    """No refusal, and a window after the killed one's credits have ended the limit is whole."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> float:
        slow = 2 * HIGH * seed
        doomed = make_process(model, server, seed, slow=slow).start()
        other = make_process(model, server, seed + 10).start()
        await asyncio.sleep((2 + seed / 3) * WINDOW)
        await doomed.kill()
        held = len(model.credits)
        new = make_process(model, server, seed + 20).start()
        killed_at = asyncio.get_running_loop().time()
        await asyncio.sleep(8 * WINDOW)
        for process in (other, new):
            await process.end()
        assert held > 0
        return killed_at

    killed_at = simulate(main())
    whole = killed_at + LIFE + WINDOW
    assert server.refused == 0
    assert measure_share(server, whole, killed_at + 8 * WINDOW) >= 0.99


def test_what_a_killed_process_had_in_flight_is_held_until_no_server_can_count_it() -> None:
    """Sends that the server counts as late as the timeout allows keep their room for a window."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        doomed = SharedPacer(ModelStore(model, RATES), WINDOW, 60.0)
        for _ in range(LIMIT):
            await doomed.admit()
            loop.call_later(TIMEOUT, lambda: server.admit(loop.time()))
        # It is killed here: nothing is ever given back.
        process = make_process(model, server, 2).start()
        await asyncio.sleep(4 * WINDOW)
        await process.end()

    simulate(main())
    assert server.refused == 0
    assert len(server.total) > 2 * LIMIT


@pytest.mark.parametrize("seed", range(3))
def test_whatever_dies_no_window_holds_more_than_the_limit(seed: int) -> None:
    """Processes come, end and are killed at random, answers take up to the timeout: no refusal.

    Redis is up to 50 ms away, and the server counts up to the end of each latency.
    """
    model, server, rng = LimitModel(), SlidingWindow(LIMIT, WINDOW), random.Random(seed)

    async def main() -> None:
        alive: list[Process] = []
        for number in range(16):
            store = ModelStore(model, RATES, seconds=rng.uniform(0.0005, 0.1))
            high = rng.choice([HIGH, TIMEOUT, TIMEOUT])
            process = Process(store, server, random.Random(seed + number), high=high)
            alive.append(process.start(workers=rng.choice([1, 8, 40])))
            await asyncio.sleep(rng.uniform(0.1, 1.0) * WINDOW)
            while len(alive) > rng.randint(0, 4):
                gone = alive.pop(rng.randrange(len(alive)))
                await (gone.kill() if rng.random() < 0.6 else gone.end())
        for process in alive:
            await process.end()

    simulate(main())
    assert server.refused == 0
    assert len(server.total) > 3 * LIMIT


def test_a_restart_meets_no_refusal_and_no_second_first_window() -> None:
    """A process that begins when another one ends goes on with what that one left."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> None:
        rng = random.Random(5)
        for number in range(8):
            process = make_process(model, server, number).start()
            await asyncio.sleep(rng.uniform(0.3, 1.5) * WINDOW)
            await process.end()

    simulate(main())
    assert server.refused == 0
    assert measure_share(server, WINDOW, server.total[-1]) >= 0.97


def test_sends_of_all_processes_are_spaced() -> None:
    """Credits that pile up are not spent in a burst by many: four, then one per interval."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> list[float]:
        first = make_process(model, server, 1).start(requests=1)
        await asyncio.sleep(1.5 * WINDOW)
        processes = [first, *(make_process(model, server, n).start() for n in range(2, 10))]
        await asyncio.sleep(1.0)
        for process in processes:
            await process.end()
        return sorted(at for process in processes for at in process.sent[-200:])[1:]

    sent = simulate(main())
    interval = WINDOW / LIMIT
    for earlier, later in zip(sent, sent[10:], strict=False):
        assert later - earlier >= (10 - BURST) * interval - 0.005


def test_a_heavy_send_is_not_starved_by_light_ones() -> None:
    """A request of the whole limit on tokens is sent, while another process has light ones."""
    rates = Rates(None, 1000, WINDOW, LIFE)
    model = LimitModel()

    async def main() -> float:
        loop = asyncio.get_running_loop()
        light, heavy = (SharedPacer(ModelStore(model, rates), WINDOW, 60.0) for _ in range(2))

        async def send(pacer: SharedPacer, tokens: int) -> None:
            credit = await pacer.admit(tokens)
            await asyncio.sleep(0.1)
            pacer.give_back(credit, tokens)

        async def send_light() -> None:
            while True:
                await send(light, 10)

        senders = [asyncio.create_task(send_light()) for _ in range(8)]
        await asyncio.sleep(3 * WINDOW)
        began = loop.time()
        await send(heavy, 5000)
        took = loop.time() - began
        for sender in senders:
            sender.cancel()
        await asyncio.wait(senders)
        await light.aclose()
        await heavy.aclose()
        return took

    assert simulate(main()) <= LIFE + 2 * WINDOW


def test_tokens_come_back_as_they_were_counted() -> None:
    """Where the endpoint counts half of the estimates, almost twice as much is sent."""
    rates = Rates(None, 1000, WINDOW, LIFE)

    async def send(count_share: float) -> int:
        pacer = SharedPacer(ModelStore(LimitModel(), rates), WINDOW, 60.0)
        loop, sent = asyncio.get_running_loop(), 0
        while loop.time() < 10 * WINDOW:
            credit = await pacer.admit(20)
            sent += 1
            await asyncio.sleep(0.01)
            pacer.give_back(credit, 20, counted=round(20 * count_share))
        await pacer.aclose()
        return sent

    whole, half = simulate(send(1.0)), simulate(send(0.5))
    assert half >= 1.75 * whole


def test_the_lowest_limit_that_is_named_is_everyones() -> None:
    """A second job that says 50 makes it 50 for both, until it has been away for a life."""
    model, server = LimitModel(), SlidingWindow(50, WINDOW)

    async def main() -> None:
        low = Process(ModelStore(model, Rates(50, None, WINDOW, LIFE)), server, random.Random(1))
        processes = [low.start(), make_process(model, server, 2).start()]
        await asyncio.sleep(6 * WINDOW)
        for process in processes:
            await process.end()

    simulate(main())
    assert server.refused == 0
    assert len(server.total) >= 250


def test_a_store_that_is_away_stops_the_sending_and_then_the_run() -> None:
    """Nothing leaves without its word; a while later it goes on, after the patience it stops."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> tuple[list[float], float]:
        loop = asyncio.get_running_loop()
        process = make_process(model, server, 1, patience=20.0).start()
        await asyncio.sleep(WINDOW)
        process.store.away = True
        await asyncio.sleep(10.0)
        process.store.away = False
        await asyncio.sleep(WINDOW)
        process.store.away = True
        gone = loop.time()
        await asyncio.wait(process.senders, return_when=asyncio.FIRST_EXCEPTION)
        stopped = loop.time()
        with pytest.raises(LimitStop, match="limit_store gave no answer for 20 s"):
            await next(sender for sender in process.senders if sender.done())
        await process.end()
        return process.sent, stopped - gone

    sent, patience = simulate(main())
    assert [at for at in sent if WINDOW + 0.5 < at < WINDOW + 10] == []
    assert any(WINDOW + 10 < at < 2 * WINDOW + 10 for at in sent)
    assert 20 <= patience <= 23
    assert server.refused == 0


def test_a_pause_gives_the_booked_credit_back() -> None:
    """A process that must pause holds nothing meanwhile: others may use the whole limit."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> list[float]:
        process = make_process(model, server, 1).start()
        await asyncio.sleep(2 * WINDOW)
        assert process.pacer is not None
        process.pacer.pause.extend(4 * WINDOW)
        await asyncio.sleep(WINDOW + 2 * HIGH)
        model.exchange(int(3.1e6 * WINDOW), RATES, "", 0, ())
        assert model.credits == {}
        await asyncio.sleep(WINDOW)
        await process.end()
        return process.sent

    sent = simulate(main())
    assert [at for at in sent if 2 * WINDOW < at < 4 * WINDOW] == []
    assert any(at > 4 * WINDOW for at in sent)


def test_one_question_a_send_is_asked() -> None:
    """Returns travel with bookings: at most 1.3 questions a send where the limit is used."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> float:
        process = make_process(model, server, 1).start()
        await asyncio.sleep(4 * WINDOW)
        await process.end()
        return process.store.questions / len(process.sent)

    assert simulate(main()) <= 1.3


def test_an_ended_process_leaves_only_what_the_server_counts() -> None:
    """A booked credit that was not used is handed back, a used one comes back in a window."""
    model, server = LimitModel(), SlidingWindow(LIMIT, WINDOW)

    async def main() -> float:
        process = make_process(model, server, 1).start(requests=50)
        await asyncio.wait(process.senders)
        await process.end()
        return max(model.credits.values()) / 1e6 - asyncio.get_running_loop().time()

    assert simulate(main()) <= WINDOW
