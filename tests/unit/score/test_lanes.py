"""Fresh and deferred requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import pytest

from rerank_jobs.model import Request
from rerank_jobs.score.lanes import READ_AHEAD, Lanes
from rerank_jobs.score.narrowing import Attempt
from tests.unit.score.fakes import make_request, make_requests
from tests.unit.score.simulation import simulate


async def open_lanes(requests: Iterable[Request], max_deferred: int = 100) -> Lanes:
    lanes = Lanes(requests, max_deferred=max_deferred, changed=asyncio.Event())
    await settle()
    return lanes


async def settle() -> None:
    """Let the read-ahead finish."""
    for _ in range(4):
        await asyncio.sleep(0)


async def drain(lanes: Lanes, now: float = 0.0) -> list[Attempt]:
    """Take until nothing is ready."""
    taken = []
    while (attempt := lanes.take(now)) is not None:
        taken.append(attempt)
        await settle()
    return taken


@pytest.mark.parametrize("count", [0, 1, READ_AHEAD - 1, READ_AHEAD, READ_AHEAD + 1, 100])
def test_every_request_comes_once_in_order(count: int) -> None:
    """Chunks of the read-ahead neither lose nor repeat nor reorder."""

    async def main() -> list[int]:
        lanes = await open_lanes(make_requests(count))
        numbers = [attempt.request.number for attempt in await drain(lanes)]
        assert lanes.empty
        return numbers

    assert simulate(main()) == list(range(count))


def test_the_read_ahead_is_bounded() -> None:
    """No more than two chunks are held unsent, however long the plan is."""
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        while True:
            pulled += 1
            yield make_request(pulled)

    async def main() -> None:
        lanes = await open_lanes(endless())
        for taken in range(1, 200):
            assert lanes.take(0.0) is not None
            await settle()
            assert pulled <= taken + 2 * READ_AHEAD

    simulate(main())


def test_a_deferred_request_waits_for_its_time_when_it_is_the_work() -> None:
    """With nothing fresh left, deferred requests come when they are due, the earliest first."""

    async def main() -> None:
        lanes = await open_lanes([])
        late, early = Attempt(make_request(1)), Attempt(make_request(2))
        lanes.defer(late, 20.0)
        lanes.defer(early, 10.0)
        assert lanes.take(9.0) is None
        assert lanes.next_due() == 10.0
        assert lanes.take(25.0) is early
        assert lanes.take(25.0) is late
        assert lanes.empty

    simulate(main())


def test_ten_successes_earn_one_retry_while_fresh_requests_remain() -> None:
    """A due request is passed over until enough has succeeded."""

    async def main() -> None:
        lanes = await open_lanes(make_requests(10_000))
        deferred = Attempt(make_request(10_001))
        lanes.defer(deferred, 0.0)
        for _ in range(9):
            lanes.note_success()
        assert lanes.take(1.0) is not deferred
        lanes.note_success()
        assert lanes.take(1.0) is deferred

    simulate(main())


def test_saved_retries_are_bounded() -> None:
    """A million successes do not earn a storm."""

    async def main() -> int:
        lanes = await open_lanes(make_requests(10_000))
        for _ in range(10**5):
            lanes.note_success()
        deferred = {make_request(20_000 + i) for i in range(50)}
        for request in deferred:
            lanes.defer(Attempt(request), 0.0)
        taken = [lanes.take(1.0) for _ in range(12)]
        return sum(a is not None and a.request in deferred for a in taken)

    assert simulate(main()) == 10


def test_a_full_lane_is_the_work() -> None:
    """When too many wait, nothing fresh is taken until some have gone: memory stays bounded."""

    async def main() -> None:
        lanes = await open_lanes(make_requests(100), max_deferred=2)
        first, second = Attempt(make_request(201)), Attempt(make_request(202))
        lanes.defer(first, 5.0)
        lanes.defer(second, 6.0)
        assert lanes.take(4.0) is None
        assert lanes.next_due() == 5.0
        assert lanes.take(7.0) is first
        fresh = lanes.take(7.0)
        assert fresh is not None
        assert fresh.request.number == 0

    simulate(main())


def test_a_probe_takes_a_deferred_request_before_its_time() -> None:
    """An outage is probed with what failed already, so that the lane does not fill."""

    async def main() -> None:
        lanes = await open_lanes(make_requests(100))
        deferred = Attempt(make_request(201))
        lanes.defer(deferred, 1e9)
        assert lanes.take(0.0, probing=True) is deferred

    simulate(main())


def test_an_error_of_the_plan_comes_out_of_take() -> None:
    """What the iterable raises is not taken for its end."""

    def broken() -> Iterator[Request]:
        yield make_request(1)
        raise ValueError("torn")

    async def main() -> None:
        lanes = await open_lanes(broken())
        with pytest.raises(ValueError, match="torn"):
            lanes.take(0.0)

    simulate(main())
