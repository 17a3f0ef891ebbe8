"""Takeovers: skewed clocks, torn claims, hidden processes, and two owners that never give up."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from rerank_jobs.errors import Busy, Fenced
from rerank_jobs.ledger import owners
from rerank_jobs.ledger.claims import BEAT_SECONDS, SILENCE_SECONDS, Claim, acquire
from rerank_jobs.ledger.owners import is_gone, make_airflow_owner, make_process_owner
from rerank_jobs.storage import LocalStore
from tests.unit.ledger.kit import FOLDER

ALICE = make_airflow_owner("dag", "run-1", "score", 0)
BOB = make_airflow_owner("dag", "run-2", "score", 0)
NOW = 1_900_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def ignore(_: float) -> None:
    """Wait for nothing."""


# Clocks of two hosts that differ.


@pytest.mark.parametrize("behind", [SILENCE_SECONDS, 3_600.0])
def test_a_live_owner_whose_clock_is_behind_is_not_taken_over(
    store: LocalStore, behind: float
) -> None:
    """Before anybody takes over for silence it waits for a beat, and a live owner gives one."""
    claim = acquire(store, FOLDER, ALICE, clock=lambda: NOW - behind)
    claim.beat()
    claim.clock = lambda: NOW - behind + BEAT_SECONDS
    with pytest.raises(Busy, match=f"by a clock that is {behind:.0f} s behind this one"):
        acquire(store, FOLDER, BOB, clock=lambda: NOW, watch=lambda _: claim.beat())
    claim.check()


def test_a_dead_owner_is_watched_for_more_than_two_beats(store: LocalStore) -> None:
    """Then it is taken over; the same owner, or a released claim, waits for nothing."""
    waits: list[float] = []
    acquire(store, FOLDER, ALICE, clock=lambda: NOW).beat()
    later = acquire(store, FOLDER, BOB, clock=lambda: NOW + SILENCE_SECONDS, watch=waits.append)
    assert later.epoch == 2
    assert len(waits) == 1
    assert waits[0] > 2 * BEAT_SECONDS
    with acquire(store, FOLDER, BOB, clock=lambda: NOW, watch=waits.append):
        pass
    acquire(store, FOLDER, ALICE, clock=lambda: NOW, watch=waits.append)
    assert len(waits) == 1


def test_a_first_beat_while_watching_counts(store: LocalStore) -> None:
    """An owner that had not beaten yet is alive if it does now."""
    claim = acquire(store, FOLDER, ALICE, clock=lambda: NOW - SILENCE_SECONDS)
    with pytest.raises(Busy):
        acquire(store, FOLDER, BOB, clock=lambda: NOW, watch=lambda _: claim.beat())


# Damaged and removed claims.


@pytest.mark.parametrize("torn", [b"", b"{", bytes(40), b"[1]", b'{"epoch": 1}\n'])
def test_a_torn_claim_is_as_old_as_its_file(store: LocalStore, torn: bytes) -> None:
    """Its owner may be at work: without a beat, its silence counts from when it was created."""
    acquire(store, FOLDER, ALICE)
    store.put(f"{FOLDER}/claim/00000001.json", torn)
    (entry,) = store.entries(f"{FOLDER}/claim")
    with pytest.raises(Busy, match="an owner whose claim cannot be read"):
        acquire(store, FOLDER, BOB, clock=lambda: entry.modified + SILENCE_SECONDS - 1)
    late = entry.modified + SILENCE_SECONDS
    assert acquire(store, FOLDER, BOB, clock=lambda: late, watch=ignore).epoch == 2


@pytest.mark.parametrize("torn", [b"", b"{", b"7", b"[]", bytes(9)])
def test_a_torn_beat_is_as_old_as_its_claim(store: LocalStore, torn: bytes) -> None:
    """A beat that cannot be read is none."""
    acquire(store, FOLDER, ALICE, clock=lambda: NOW)
    store.put(f"{FOLDER}/claim/00000001.beat", torn)
    with pytest.raises(Busy):
        acquire(store, FOLDER, BOB, clock=lambda: NOW + SILENCE_SECONDS - 1)
    late = NOW + SILENCE_SECONDS
    assert acquire(store, FOLDER, BOB, clock=lambda: late, watch=ignore).epoch == 2


@pytest.mark.parametrize("left", [[], [1]])
def test_an_owner_whose_claim_somebody_removed_is_fenced(
    store: LocalStore, left: list[int]
) -> None:
    """It may be claimed again under the same number, so it must not go on."""
    acquire(store, FOLDER, ALICE)
    claim = acquire(store, FOLDER, ALICE)
    for epoch in {1, 2} - set(left):
        store.delete(f"{FOLDER}/claim/{epoch:08d}.json")
    with pytest.raises(Fenced, match="somebody removed the claim of this run"):
        claim.check()


def test_strange_files_among_claims_are_ignored(store: LocalStore) -> None:
    """A file that is no claim neither stops nor holds anybody."""
    store.put(f"{FOLDER}/claim/notes.json", b"{}")
    assert acquire(store, FOLDER, ALICE).epoch == 1


def test_a_beat_that_ends_after_the_release_does_not_undo_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat that the store held up must not make a released claim look alive."""
    claim = acquire(store, FOLDER, ALICE)
    claim.beat_seconds = 0.001
    put = store.put

    def slow(name: str, data: bytes) -> None:
        if b"at" in data:
            claim._stop.wait(timeout=10)
            claim._thread = None  # the exit does not wait for it
        put(name, data)

    with claim:
        thread = claim._thread
        monkeypatch.setattr(store, "put", slow)
    assert thread is not None
    thread.join(timeout=10)
    assert orjson.loads(store.read(f"{FOLDER}/claim/00000001.beat")) == {"released": True}


# Processes that cannot be seen.


def test_a_hidden_process_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc does not show it, a signal that does nothing tells whether it is there."""
    me = make_process_owner()
    monkeypatch.setattr(owners, "_start_time", lambda _: None)
    assert not is_gone(me)

    def deny(pid: int, number: int) -> None:
        raise PermissionError(pid, number)

    def miss(pid: int, number: int) -> None:
        raise ProcessLookupError(pid, number)

    monkeypatch.setattr(os, "kill", deny)
    assert not is_gone(me)
    monkeypatch.setattr(os, "kill", miss)
    assert is_gone(me)
    assert not is_gone({**me, "started": None})


# Two owners with automatic retries.


class Clock:
    """Seconds that pass only when the race says so."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Runner:
    """A runner that tries again whatever happens; it beats and checks unless it is stalled."""

    owner: dict[str, Any]
    retry_seconds: float
    claim: Claim | None = None
    next_act: float = 0.0
    stalled_until: float = 0.0
    done: float = 0.0
    fenced: list[float] = field(default_factory=list)

    def act(self, store: LocalStore, now: Callable[[], float], need: float) -> None:
        """Do what is due: claim, or beat and work; ``need`` seconds of work end a session."""
        if self.claim is None:
            try:
                self.claim = acquire(store, FOLDER, self.owner, clock=now, watch=ignore)
                self.claim.beat()
                self.done = 0.0
            except Busy:
                self.next_act = now() + self.retry_seconds
                return
        try:
            self.claim.check()
            self.claim.beat()
        except Fenced:
            self.claim = None
            self.fenced.append(now())
            self.next_act = now() + self.retry_seconds
            return
        self.done += BEAT_SECONDS
        self.next_act = now() + BEAT_SECONDS
        if self.done >= need:
            self.claim._release()
            self.claim = None
            self.next_act = now() + self.retry_seconds


def race(
    store: LocalStore, seed: int, stalls: dict[int, list[tuple[float, float]]]
) -> tuple[list[Runner], int]:
    """Let two owners work for 5,000 s on one shard; return them and the sessions that ended."""
    draw, clock = random.Random(seed), Clock()
    runners = [Runner(owner, draw.uniform(1, 15)) for owner in (ALICE, BOB)]
    ended = 0
    while clock.now < NOW + 5_000:
        for number, runner in enumerate(runners):
            due = [one for one in stalls.get(number, []) if one[0] <= clock.now - NOW]
            for start, length in due:
                runner.stalled_until = clock.now + length
                stalls[number].remove((start, length))
            if runner.next_act <= clock.now and runner.stalled_until <= clock.now:
                held = runner.claim is not None
                runner.act(store, clock, need=300.0)
                ended += held and runner.claim is None and runner.fenced[-1:] != [clock.now]
        clock.now += 1.0
    return runners, ended


def test_two_owners_that_always_retry_never_fence_each_other_without_a_stall(
    store: LocalStore,
) -> None:
    """5,000 s of automatic retries: nobody loses a shard, and session after session ends."""
    runners, ended = race(store, 1, {})
    assert [runner.fenced for runner in runners] == [[], []]
    assert ended >= 14


@pytest.mark.parametrize("first", [0, 1])
def test_a_stalled_owner_is_fenced_once_and_does_not_fence_back(
    store: LocalStore, first: int
) -> None:
    """Each stall of more than 120 s costs at most one shard, in either direction, and work goes on.

    One owner stalls while it works, later the other; both come back and try again for ever.
    """
    stalls = {first: [(100.0, 400.0), (4_000.0, 150.0)], 1 - first: [(2_000.0, 400.0)]}
    count = {number: len(found) for number, found in stalls.items()}
    runners, ended = race(store, 7, stalls)
    for number, runner in enumerate(runners):
        assert len(runner.fenced) <= count[number]
    assert sum(len(runner.fenced) for runner in runners) >= 1
    assert ended >= 9
