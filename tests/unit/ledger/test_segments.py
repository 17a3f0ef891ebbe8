"""Segments: every paid reply is sealed, within its bounds, whatever happens around it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rerank_jobs.config import Ledger
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.ledger.sealing import SegmentWriter
from rerank_jobs.ledger.segments import decode_segment, encode_segment, segment_name
from rerank_jobs.model import Outcome
from rerank_jobs.storage import LocalStore
from tests.unit.ledger.kit import (
    CANARY,
    FOLDER,
    PLAN,
    BadDisk,
    SlowDisk,
    make_failed,
    make_scored,
    put_segment,
    seal_table,
)
from tests.unit.score.simulation import simulate

LOOSE = Ledger(max_unsaved_replies=1000, max_unsaved_seconds=1000, max_unsaved_usd=1000)


def open_writer(store: LocalStore, bounds: Ledger = LOOSE, **options: Any) -> SegmentWriter:
    return SegmentWriter(store, FOLDER, 1, PLAN, bounds, **options)


def sealed_numbers(store: LocalStore) -> list[list[int]]:
    """Return the numbers of the requests in each segment."""
    found = []
    for name in load_segments(store, FOLDER, PLAN).segments:
        numbers: list[Any] = decode_segment(store.read(name)).column("request").to_pylist()
        found.append(numbers)
    return found


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


# The format.


def test_a_segment_reads_back_as_written() -> None:
    """Every field of replies and refusals comes back, in order."""
    table = decode_segment(encode_segment([make_scored(1), make_failed(2)], PLAN))
    assert table.schema.equals(arrow_schema("ledger"), check_metadata=True)
    scored, failed = table.to_pylist()
    assert scored["scores"] == [0.5, 0.501, 0.502]
    assert (scored["query_key"], len(scored["passage_keys"])) == ((1).to_bytes(16, "big"), 3)
    assert (scored["search_units"], scored["planned_units"], scored["cost_usd"]) == (1, 1, 0.001)
    assert (scored["response_id"], scored["model"], scored["error"]) == ("gen-1", "model-1", None)
    assert (failed["error"], failed["scores"], failed["cost_usd"]) == ("http_400", [], 0.0)
    assert {scored["plan_id"], failed["plan_id"]} == {PLAN}


def test_a_segment_of_version_1_is_still_paid_for() -> None:
    """Without the column ``parts`` a segment is read with nulls there, whole and by columns."""
    table = decode_segment(encode_segment([make_scored(1), make_failed(2)], PLAN))
    old = seal_table(table.drop_columns(["parts"]))
    assert decode_segment(old) == table
    assert decode_segment(old, ("cost_usd", "parts")).column("parts").to_pylist() == [None, None]
    assert decode_segment(old, ("cost_usd",)).column("cost_usd").to_pylist() == [0.001, 0.0]


def test_pieces_of_a_passage_are_noted() -> None:
    """A passage that was sent in pieces says in how many; any other says nothing."""
    cut = dataclasses.replace(make_scored(1, passages=1), parts=4)
    table = decode_segment(encode_segment([cut, make_scored(2)], PLAN))
    assert table.column("parts").to_pylist() == [4, None]


def test_equal_outcomes_have_equal_bytes() -> None:
    """A seal that is tried again is recognised as the same."""
    one, two = (encode_segment([make_scored(1), make_failed(2)], PLAN) for _ in range(2))
    assert one == two


def test_a_segment_is_an_arrow_file_that_names_its_contract() -> None:
    """Any Arrow reader opens it, and finds the contract and its version."""
    data = encode_segment([make_scored(1)], PLAN)
    with pa.ipc.open_file(io.BytesIO(data)) as reader:
        metadata = reader.schema.metadata or {}
        assert reader.read_all().num_rows == 1
    assert (metadata[b"contract"], metadata[b"version"]) == (b"ledger", b"2")


def test_every_flipped_byte_of_a_segment_is_detected() -> None:
    """Arrow has no checksum of its own: none of the damaged segments is read as scores."""
    data = encode_segment([make_scored(1), make_failed(2)], PLAN)
    survived = []
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]
        with contextlib.suppress(ValueError):
            decode_segment(damaged)
            survived.append(place)
    assert survived == []


@pytest.mark.parametrize("data", [b"", b"ARROW1\0\0", b"x" * 500])
def test_what_is_no_segment_is_refused(data: bytes) -> None:
    """Foreign bytes are told apart from a segment, without an error of a library."""
    with pytest.raises(ValueError, match="segment"):
        decode_segment(data)


def test_no_text_reaches_a_segment() -> None:
    """Neither a query nor a document stands in a segment, compressed or not."""
    data = encode_segment([make_scored(number) for number in range(9)], PLAN)
    assert CANARY.encode() not in data
    assert CANARY not in str(decode_segment(data).to_pylist())


# When it seals.


def test_a_full_batch_is_sealed(store: LocalStore) -> None:
    """The n-th unsaved reply seals all n of them, before ``accept`` returns."""

    async def main() -> None:
        bounds = LOOSE.model_copy(update={"max_unsaved_replies": 3})
        async with open_writer(store, bounds) as ledger:
            for number in range(7):
                await ledger.accept(make_scored(number))
            assert sealed_numbers(store) == [[0, 1, 2], [3, 4, 5]]
            assert ledger.sealed == 6

    asyncio.run(main())
    assert sealed_numbers(store) == [[0, 1, 2], [3, 4, 5], [6]]


def test_dollars_at_risk_are_bounded(store: LocalStore) -> None:
    """Replies are sealed once they are worth as much as may be lost."""

    async def main() -> None:
        bounds = LOOSE.model_copy(update={"max_unsaved_usd": 0.01})
        async with open_writer(store, bounds) as ledger:
            for number in range(5):
                await ledger.accept(make_scored(number, usd=0.004))
            assert sealed_numbers(store) == [[0, 1, 2]]

    asyncio.run(main())


def test_bytes_are_bounded(store: LocalStore) -> None:
    """Replies are sealed once they weigh the bound: 24 bytes a passage and 250 beside."""

    async def main() -> None:
        bounds = LOOSE.model_copy(update={"max_unsaved_bytes": 2 * (250 + 24 * 100)})
        async with open_writer(store, bounds) as ledger:
            for number in range(5):
                await ledger.accept(make_scored(number, passages=100))
            assert sealed_numbers(store) == [[0, 1], [2, 3]]

    asyncio.run(main())


def test_no_text_is_held_while_a_reply_is_unsaved(store: LocalStore) -> None:
    """What waits for its seal holds keys and scores, not the texts of its request."""

    async def main() -> None:
        async with open_writer(store) as ledger:
            await ledger.accept(make_scored(1))
            await ledger.accept(make_failed(2))
            held = [item.outcome.request for item in ledger._unsaved]
            assert [(request.query, request.passages) for request in held] == [("", ())] * 2

    asyncio.run(main())


def test_age_is_bounded_without_a_further_reply(store: LocalStore) -> None:
    """A lone reply is sealed by the timer before it is ``max_unsaved_seconds`` old."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bounds = LOOSE.model_copy(update={"max_unsaved_seconds": 2.0})
        async with open_writer(store, bounds, clock=loop.time) as ledger:
            for number in range(5):
                await asyncio.sleep(0.7)
                await ledger.accept(make_scored(number))
                await asyncio.sleep(2.0)
                assert number in [n for numbers in sealed_numbers(store) for n in numbers]

    simulate(main())


def test_age_is_bounded_while_replies_keep_coming(store: LocalStore) -> None:
    """An old reply is sealed by the next ``accept`` even if the timer had no turn."""
    now = 0.0

    async def main() -> None:
        nonlocal now
        bounds = LOOSE.model_copy(update={"max_unsaved_seconds": 2.0})
        async with open_writer(store, bounds, clock=lambda: now) as ledger:
            await ledger.accept(make_scored(0))
            now = 2.0
            await ledger.accept(make_scored(1))
            assert sealed_numbers(store) == [[0, 1]]

    asyncio.run(main())


@pytest.mark.parametrize("reason", [None, RuntimeError, asyncio.CancelledError])
def test_leaving_seals_the_rest(store: LocalStore, reason: type[BaseException] | None) -> None:
    """However the context is left, what is unsaved is sealed."""

    async def main() -> None:
        async with open_writer(store) as ledger:
            await ledger.accept(make_scored(1))
            if reason is not None:
                raise reason

    with contextlib.suppress(RuntimeError, asyncio.CancelledError):
        asyncio.run(main())
    assert sealed_numbers(store) == [[1]]


def test_nothing_unsaved_writes_nothing(store: LocalStore) -> None:
    """A run without replies leaves no segment."""

    async def main() -> None:
        async with open_writer(store) as ledger:
            await ledger.seal()

    asyncio.run(main())
    assert store.entries() == []


# When the disk is slow.


def run_beside(disk: SlowDisk, main: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(main)
    finally:
        disk.gate.set()


async def until(event: Any) -> None:
    while not event.is_set():  # noqa: ASYNC110 - it is a thread that sets it
        await asyncio.sleep(0.001)


def test_while_a_seal_lags_accept_waits(tmp_path: Path) -> None:
    """Unsaved replies are at most the bound and one for each sender that waits; none is lost."""
    disk = SlowDisk(str(tmp_path))

    async def main() -> None:
        bounds = LOOSE.model_copy(update={"max_unsaved_replies": 4})
        async with open_writer(disk, bounds) as ledger:
            senders = [asyncio.create_task(send(ledger, first)) for first in (0, 10, 20)]
            await until(disk.entered)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(ledger._unsaved) + len(ledger._batch) <= 4 + len(senders)
            assert not any(sender.done() for sender in senders)
            disk.gate.set()
            await asyncio.gather(*senders)

    async def send(ledger: SegmentWriter, first: int) -> None:
        for number in range(first, first + 10):
            await ledger.accept(make_scored(number))

    run_beside(disk, main())
    numbers = [number for numbers in sealed_numbers(disk) for number in numbers]
    assert sorted(numbers) == list(range(30))


def test_a_seal_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    """The disk is waited for in a thread: timers and other tasks go on."""
    disk = SlowDisk(str(tmp_path))

    async def main() -> None:
        async with open_writer(disk) as ledger:
            await ledger.accept(make_scored(1))
            seal = asyncio.create_task(ledger.seal())
            await until(disk.entered)
            await ledger.accept(make_scored(2))
            assert not seal.done()
            disk.gate.set()

    run_beside(disk, main())
    assert sealed_numbers(disk) == [[1], [2]]


def test_leaving_during_a_seal_by_age_loses_nothing(tmp_path: Path) -> None:
    """Replies that came while the timer sealed are sealed too when the context is left then."""
    disk = SlowDisk(str(tmp_path))

    async def main() -> None:
        bounds = LOOSE.model_copy(update={"max_unsaved_seconds": 0.01})
        async with open_writer(disk, bounds) as ledger:
            await ledger.accept(make_scored(1))
            await until(disk.entered)
            await ledger.accept(make_scored(2))
            asyncio.get_running_loop().call_later(0.02, disk.gate.set)

    run_beside(disk, main())
    assert sealed_numbers(disk) == [[1], [2]]


def test_a_seal_cancelled_in_its_thread_is_recognised(tmp_path: Path) -> None:
    """A put that goes on after its task was cancelled is not taken for another process's."""
    disk = SlowDisk(str(tmp_path))

    async def main() -> None:
        async with open_writer(disk) as ledger:
            await ledger.accept(make_scored(1))
            seal = asyncio.create_task(ledger.seal())
            await until(disk.entered)
            seal.cancel()
            await asyncio.wait({seal})
            await ledger.accept(make_scored(2))
            disk.gate.set()

    run_beside(disk, main())
    assert sealed_numbers(disk) == [[1], [2]]


def test_being_cancelled_while_leaving_does_not_stop_the_last_seal(tmp_path: Path) -> None:
    """A cancellation that arrives during the last seal is passed on after it."""
    disk = SlowDisk(str(tmp_path))

    async def work() -> None:
        async with open_writer(disk) as ledger:
            await ledger.accept(make_scored(1))

    async def main() -> None:
        task = asyncio.create_task(work())
        await until(disk.entered)
        task.cancel()
        await asyncio.sleep(0)
        disk.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_beside(disk, main())
    assert sealed_numbers(disk) == [[1]]


# When the disk fails.


def accept_all(ledger: SegmentWriter, outcomes: list[Outcome]) -> Coroutine[Any, Any, list[str]]:
    async def main() -> list[str]:
        errors = []
        async with ledger:
            for outcome in outcomes:
                try:
                    await ledger.accept(outcome)
                except (OSError, StateError) as error:
                    errors.append(type(error).__name__)
        return errors

    return main()


@pytest.mark.parametrize("moods", [("fail",), ("fail", "fail", "ok", "fail"), ("after",)])
def test_a_failing_disk_loses_nothing(tmp_path: Path, moods: tuple[str, ...]) -> None:
    """Outcomes that could not be sealed are sealed, once, by a later seal."""
    disk = BadDisk(str(tmp_path), *moods)
    bounds = LOOSE.model_copy(update={"max_unsaved_replies": 2})

    async def main() -> list[str]:
        return await accept_all(open_writer(disk, bounds), [make_scored(n) for n in range(7)])

    errors = asyncio.run(main())
    assert errors == ["OSError"] * sum(mood != "ok" for mood in moods)
    numbers = [number for numbers in sealed_numbers(disk) for number in numbers]
    assert numbers == list(range(7))


def test_a_put_that_failed_after_it_took_effect_is_counted_once(tmp_path: Path) -> None:
    """A lost answer of the store neither doubles the cost nor looks like another writer."""
    disk = BadDisk(str(tmp_path), "after")

    async def main() -> None:
        async with open_writer(disk) as ledger:
            await ledger.accept(make_scored(1))
            with pytest.raises(OSError, match="input/output"):
                await ledger.seal()
            await ledger.accept(make_scored(2))
            await ledger.seal()
            assert ledger.sealed == 2

    asyncio.run(main())
    spent = load_segments(disk, FOLDER, PLAN).spent
    assert spent.requests == 2
    assert spent.cost_usd == pytest.approx(0.002)


def test_a_failed_seal_by_age_is_told_to_the_next_reply_which_is_kept(tmp_path: Path) -> None:
    """The run learns of a bad disk from ``accept``; the reply that it came with is not dropped."""
    disk = BadDisk(str(tmp_path), "fail")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        bounds = LOOSE.model_copy(update={"max_unsaved_seconds": 2.0})
        async with open_writer(disk, bounds, clock=loop.time) as ledger:
            await ledger.accept(make_scored(1))
            await asyncio.sleep(3.0)
            for number in (2, 3):
                with pytest.raises(OSError, match="no space"):
                    await ledger.accept(make_scored(number))

    simulate(main())
    assert sealed_numbers(disk) == [[1], [2, 3]]


@pytest.mark.parametrize("failures", [1, 2])
def test_the_last_seal_is_tried_three_times(tmp_path: Path, failures: int) -> None:
    """A disk that fails twice as a run ends loses nothing: there is no later seal."""
    disk = BadDisk(str(tmp_path), *["fail"] * failures)

    async def main() -> None:
        async with open_writer(disk) as ledger:
            await ledger.accept(make_scored(1))

    simulate(main())
    assert sealed_numbers(disk) == [[1]]


def test_what_a_disk_refused_to_the_end_is_told_in_dollars(tmp_path: Path) -> None:
    """After three refusals the error is passed on, and what was paid for nothing is known."""
    disk = BadDisk(str(tmp_path), *["fail"] * 3)
    ledgers = []

    async def main() -> None:
        ledgers.append(open_writer(disk))
        async with ledgers[0]:
            await ledgers[0].accept(make_scored(1, usd=0.002))

    with pytest.raises(OSError, match="no space"):
        simulate(main())
    assert ledgers[0].unsealed_usd == pytest.approx(0.002)


def test_a_strangers_segment_met_at_the_end_costs_nothing(store: LocalStore) -> None:
    """Another process under our epoch is told of, after ours was sealed beside its segment."""
    put_segment(store, [make_scored(100)])

    async def main() -> None:
        async with open_writer(store) as ledger:
            await ledger.accept(make_scored(1))

    with pytest.raises(StateError, match="two copies of one owner"):
        asyncio.run(main())
    assert sealed_numbers(store) == [[100], [1]]


def test_two_writers_of_one_name_are_told_and_lose_nothing(store: LocalStore) -> None:
    """Another process under our epoch is an error; its segment stays, ours stands beside it."""
    put_segment(store, [make_scored(100)])

    async def main() -> None:
        async with open_writer(store) as ledger:
            await ledger.accept(make_scored(1))
            with pytest.raises(StateError, match="two copies of one owner"):
                await ledger.seal()

    asyncio.run(main())
    assert sealed_numbers(store) == [[100], [1]]


def test_names_sort_by_epoch_then_sequence() -> None:
    """Listing order is ledger order."""
    names = [segment_name("f", epoch, number) for epoch in (1, 2, 10) for number in (0, 9, 10)]
    assert names == sorted(names)
