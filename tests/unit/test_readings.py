"""Readings of the canary side by side: each is kept, under a number of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rerank_jobs.drift import Reading
from rerank_jobs.readings import Kept, keep_reading
from rerank_jobs.storage import LocalStore, read_json

FOLDER = f"canary/{'a' * 32}"


def keep(store: LocalStore, score: float, *, accept: bool = False) -> Kept:
    reading = Reading(("m",), (), (score,))
    spent = {"totals": {"unknown_usd": 0.0}, "unsealed_usd": 0.001}
    return keep_reading(store, FOLDER, reading, "0" * 16, spent, accept=accept)


def test_readings_at_the_same_time_lose_none(tmp_path: Path) -> None:
    """Of 40 that four threads keep at once each stands under a number of its own, 1 to 40."""
    store = LocalStore(str(tmp_path))
    with ThreadPoolExecutor(4) as threads:
        kept = list(threads.map(lambda n: keep(store, n / 64), range(40)))
    assert sorted(one.number for one in kept) == list(range(1, 41))
    scores = [read_json(store, one.name)["reading"]["scores"] for one in kept]
    assert scores == [[n / 64] for n in range(40)]
    assert sum(one.reference is None for one in kept) == 1


def test_an_accepted_reading_is_the_reference_of_later_ones(tmp_path: Path) -> None:
    """The first is the reference until one is accepted; the last is always the one before."""
    store = LocalStore(str(tmp_path))
    found = [keep(store, 0.1), keep(store, 0.2), keep(store, 0.3, accept=True), keep(store, 0.4)]
    references = [one.reference and one.reference.number for one in found]
    assert references == [None, 1, 1, 3]
    assert [one.last and one.last.number for one in found] == [None, 1, 2, 3]
