"""Claims: one live owner per shard, taken over only when that is safe, and told when it is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from rerank_jobs.errors import Busy, Fenced
from rerank_jobs.ledger.claims import SILENCE_SECONDS, Claim, acquire
from rerank_jobs.ledger.owners import make_airflow_owner, make_process_owner
from rerank_jobs.storage import LocalStore, Put
from tests.unit.ledger.kit import FOLDER

ALICE = make_airflow_owner("dag", "run-1", "score", 0)
BOB = make_airflow_owner("dag", "run-2", "score", 0)

CLAIMS_AND_WAITS = """
import sys
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.storage import LocalStore
claim = acquire(LocalStore(sys.argv[1]), sys.argv[2], make_process_owner())
claim.beat()
print(claim.epoch, flush=True)
sys.stdin.read()
"""


class Clock:
    """Seconds that pass only when a test says so."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


@pytest.fixture
def take(store: LocalStore, clock: Clock) -> Callable[[dict[str, Any]], Claim]:
    """Claim the shard for an owner, on the test's clock."""
    return lambda owner: acquire(store, FOLDER, owner, clock=clock, watch=lambda _: None)


Take = Callable[[dict[str, Any]], Claim]


def test_the_first_claim_has_epoch_one(take: Take) -> None:
    """A shard that nobody claimed is free."""
    claim = take(ALICE)
    claim.check()
    assert claim.epoch == 1


def test_the_same_owner_takes_over_at_once(take: Take) -> None:
    """Airflow's retry is the live one: it waits for nothing, and fences the try before."""
    first = take(ALICE)
    first.beat()
    second = take(ALICE)
    assert second.epoch == 2
    second.check()
    with pytest.raises(Fenced, match=r"taken over by Airflow task dag run-1 score 0 \(epoch 2\)"):
        first.check()


def test_a_live_owner_keeps_others_out_and_nothing_is_created(
    store: LocalStore, take: Take, clock: Clock
) -> None:
    """Another owner is told who is at work and since when it was silent, and leaves no trace."""
    claim = take(ALICE)
    claim.beat()
    before = store.entries()
    clock.now += 42
    with pytest.raises(Busy, match=r"Airflow task dag run-1 score 0 .* 42 s ago"):
        take(BOB)
    assert store.entries() == before
    claim.check()


@pytest.mark.parametrize("beats", [0, 1, 3])
def test_after_120_s_of_silence_anybody_may_take_over(take: Take, clock: Clock, beats: int) -> None:
    """Silence counts from the last beat, or from the claim if there was none."""
    first = take(ALICE)
    for _ in range(beats):
        clock.now += 100
        first.beat()
    clock.now += SILENCE_SECONDS - 0.1
    with pytest.raises(Busy):
        take(BOB)
    clock.now += 0.1
    assert take(BOB).epoch == 2
    with pytest.raises(Fenced):
        first.check()


def test_a_released_claim_is_free_at_once(store: LocalStore, clock: Clock) -> None:
    """Whoever ends, however it ends, keeps nobody waiting."""
    with acquire(store, FOLDER, ALICE, clock=clock):
        pass
    with pytest.raises(RuntimeError), acquire(store, FOLDER, BOB, clock=clock):
        raise RuntimeError
    assert acquire(store, FOLDER, ALICE, clock=clock).epoch == 3


def test_a_release_that_fails_does_not_hide_how_the_work_ended(
    store: LocalStore, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the error of the work itself arrives, and others wait for the silence."""
    claim = take(ALICE)

    def refuse(*_: object) -> None:
        raise OSError(28, "no space left on device")

    def work() -> None:
        monkeypatch.setattr(store, "put", refuse)
        raise RuntimeError("of the work")

    with pytest.raises(RuntimeError, match="of the work"), claim:
        work()
    with pytest.raises(Busy):
        take(BOB)


@pytest.mark.parametrize("how", ["exits", "is killed"])
def test_an_owner_that_is_gone_on_this_host_is_taken_over_at_once(
    store: LocalStore, how: str
) -> None:
    """A process that ended here needs no silence: nothing can beat any more."""
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIMS_AND_WAITS, store.location, FOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdin
    assert other.stdout
    assert other.stdout.readline().strip() == b"1"
    with pytest.raises(Busy, match=f"process {other.pid} on "):
        acquire(store, FOLDER, make_process_owner())
    if how == "exits":
        other.stdin.close()
    else:
        other.kill()
    other.wait(timeout=20)
    other.stdout.close()
    other.stdin.close()
    assert acquire(store, FOLDER, make_process_owner()).epoch == 2


def test_two_that_race_for_one_epoch_do_not_both_win(
    store: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between listing and creating another may win the epoch: the loser is busy."""
    create = store.put_if_absent

    def lose(name: str, data: bytes) -> Put:
        monkeypatch.undo()
        assert acquire(store, FOLDER, BOB, clock=clock).epoch == 1
        return create(name, data)

    monkeypatch.setattr(store, "put_if_absent", lose)
    with pytest.raises(Busy, match="at the same moment"):
        acquire(store, FOLDER, ALICE, clock=clock)


def test_one_owner_twice_at_one_instant_does_not_win_twice(
    store: LocalStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tries of one task that start in the same moment are two claims, not one."""
    create = store.put_if_absent

    def lose(name: str, data: bytes) -> Put:
        monkeypatch.undo()
        assert acquire(store, FOLDER, ALICE, clock=clock).epoch == 1
        return create(name, data)

    monkeypatch.setattr(store, "put_if_absent", lose)
    with pytest.raises(Busy):
        acquire(store, FOLDER, ALICE, clock=clock)


def test_of_many_racers_one_wins_each_epoch(store: LocalStore) -> None:
    """Of 8 threads of different owners that start at once, one gets the shard, 20 times over."""
    for turn in range(20):
        folder = f"{FOLDER}{turn}"
        barrier = threading.Barrier(8)
        outcomes: list[str] = []

        def race(number: int, folder: str = folder, barrier: threading.Barrier = barrier) -> None:
            owner = make_airflow_owner("dag", f"run-{number}", "score", 0)
            barrier.wait()
            try:
                outcomes.append(f"epoch {acquire(store, folder, owner).epoch}")  # noqa: B023
            except Busy:
                outcomes.append("busy")  # noqa: B023

        threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [*["busy"] * 7, "epoch 1"]


def test_the_beat_goes_on_while_the_claim_is_held(store: LocalStore) -> None:
    """A thread renews the sign of life without the owner's doing, and stops with the claim."""
    ticks = iter(range(1_000_000))
    claim = acquire(store, FOLDER, ALICE, clock=lambda: float(next(ticks)))
    claim.beat_seconds = 0.005
    beats: set[bytes] = set()
    with claim:
        while len(beats) < 4:
            beats.add(store.read(f"{FOLDER}/claim/00000001.beat"))
    assert store.read(f"{FOLDER}/claim/00000001.beat") == orjson.dumps({"released": True})
    assert not any(thread.name == "claim-beat" for thread in threading.enumerate())


def test_the_beat_notices_that_the_shard_was_lost(store: LocalStore) -> None:
    """An owner that only waits for replies is told by its beat, so that it stops sending."""
    fenced = threading.Event()
    claim = acquire(store, FOLDER, ALICE)
    claim.beat_seconds, claim.on_fenced = 0.005, fenced.set
    with claim:
        assert acquire(store, FOLDER, ALICE).epoch == 2
        assert fenced.wait(timeout=10)


def test_a_lost_beat_is_not_a_lost_shard(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails for a moment does not end the beating."""
    put, failures = store.put, iter(["first", "second"])

    def fail_twice(name: str, data: bytes) -> None:
        if next(failures, None):
            raise OSError(5, "input/output error")
        put(name, data)

    claim = acquire(store, FOLDER, ALICE)
    claim.beat_seconds = 0.005
    with claim:
        monkeypatch.setattr(store, "put", fail_twice)
        before = store.read(f"{FOLDER}/claim/00000001.beat")
        while store.read(f"{FOLDER}/claim/00000001.beat") == before:
            assert claim._thread
            assert claim._thread.is_alive()


def test_a_damaged_claim_or_beat_keeps_nobody_out_for_ever(
    store: LocalStore, take: Take, clock: Clock
) -> None:
    """A torn claim counts as silent, a torn beat as none: the next epoch is free after 120 s."""
    take(ALICE).beat()
    store.put(f"{FOLDER}/claim/00000001.beat", bytes(20))
    with pytest.raises(Busy):
        take(BOB)
    clock.now += SILENCE_SECONDS
    assert take(BOB).epoch == 2
    store.put(f"{FOLDER}/claim/00000002.json", bytes(20))
    assert take(ALICE).epoch == 3
