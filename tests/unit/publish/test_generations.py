"""Generations: numbered manifests, of which exactly one is committed per number."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.errors import StateError
from rerank_jobs.publish.generations import (
    Superseded,
    commit,
    manifest_name,
    read_current,
    read_generations,
)
from rerank_jobs.storage import LocalStore, seal_json

PARTITION = "eu|2026-11-22"


def manifest(plan: str, write_id: str = "1") -> dict[str, Any]:
    return {"plan_id": plan, "write_id": write_id, "parts": [], "rejected": []}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def test_numbers_count_up_and_the_newest_is_current(store: LocalStore) -> None:
    """Each commit asserts its predecessor; listing gives all of them, oldest first."""
    assert read_current(store, PARTITION) is None
    for number in range(12):
        assert commit(store, PARTITION, number, manifest(f"plan {number}")).number == number + 1
    current = read_current(store, PARTITION)
    assert current is not None
    assert (current.number, current.plan_id) == (12, "plan 11")
    assert [found.number for found in read_generations(store, PARTITION)] == list(range(1, 13))


def test_a_commit_on_a_superseded_generation_does_not_land(store: LocalStore) -> None:
    """Whoever is late is told so, and the winner's manifest stands."""
    commit(store, PARTITION, 0, manifest("winner"))
    with pytest.raises(Superseded):
        commit(store, PARTITION, 0, manifest("late"))
    current = read_current(store, PARTITION)
    assert current is not None
    assert current.plan_id == "winner"


def test_of_many_committers_one_lands(store: LocalStore) -> None:
    """Of 8 commits of one number at once one lands, 20 times over."""
    for number in range(20):
        barrier = threading.Barrier(8)
        landed: list[str] = []

        def race(
            name: str,
            number: int = number,
            barrier: threading.Barrier = barrier,
            landed: list[str] = landed,
        ) -> None:
            barrier.wait()
            try:
                landed.append(commit(store, PARTITION, number, manifest("plan", name)).plan_id)
            except Superseded:
                return

        threads = [threading.Thread(target=race, args=(str(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert landed == ["plan"]


def test_a_manifest_that_is_valid_but_of_another_kind_is_refused(store: LocalStore) -> None:
    """A sealed object that is no manifest is a typed error, not a generation."""
    store.put_if_absent(manifest_name(PARTITION, 1), seal_json({"contract": "plan"}))
    with pytest.raises(StateError, match="not a manifest"):
        read_current(store, PARTITION)


def test_partitions_do_not_see_each_other(store: LocalStore) -> None:
    """A partition's generations are its own, also where its key begins like another's."""
    commit(store, "2026-11", 0, manifest("month"))
    assert read_current(store, "2026-11-22") is None
