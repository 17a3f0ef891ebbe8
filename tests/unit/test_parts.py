"""Parts: a finished shard counts only while its record and its part are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import PlanSpoiled, StateError
from rerank_jobs.job import open_roots, plan_partition, score_partition_shard
from rerank_jobs.parts import finish_shard, open_work, read_done
from rerank_jobs.plan.frozen import Plan, run_folder
from rerank_jobs.storage import LocalStore, Store, read_json
from tests.builders import make_job, make_rows, write_rows


def nothing_lost() -> None:
    """Stand for a claim that nobody took over."""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_rows(tmp_path / "candidates.parquet", make_rows(4, 5))
    return make_job(tmp_path)


@pytest.fixture
def plan(job: Job) -> Plan:
    planned = plan_partition(job)
    assert planned.plan is not None
    return planned.plan


@pytest.fixture
def store(job: Job) -> Store:
    return open_roots(job).state


@pytest.fixture
def folder(job: Job, plan: Plan) -> str:
    """Score the only shard; return its folder."""
    score_partition_shard(job, plan, 0)
    return run_folder(plan.partition, plan.plan_id, 0)


def part_path(store: Store, folder: str) -> Path:
    return store.fetch(read_json(store, f"{folder}/done.json")["part"]["name"])


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "gone":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[:-1])
    else:
        path.write_bytes(data[:64] + bytes(64) + data[128:])


DAMAGE = ("gone", "cut", "zeroed")


def test_a_finished_shard_is_read_back(store: Store, folder: str) -> None:
    """The record names the part, its rows and its documents by status."""
    done = read_done(store, folder)
    assert done is not None
    assert done.part is not None
    assert (done.shard, done.part.rows, done.statuses["scored"]) == (0, 20, 20)


def test_a_shard_that_nobody_finished_is_not_done(store: Store, plan: Plan) -> None:
    """Without a record there is nothing to return."""
    assert read_done(store, run_folder(plan.partition, plan.plan_id, 0)) is None


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_no_record(store: Store, folder: str, kind: str) -> None:
    """A torn done.json counts as none."""
    damage(store.fetch(f"{folder}/done.json"), kind)
    assert read_done(store, folder) is None


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_part_is_not_done(store: Store, folder: str, kind: str) -> None:
    """A record whose part is gone, cut or changed counts as none: its bytes would be published."""
    damage(part_path(store, folder), kind)
    assert read_done(store, folder) is None


@pytest.mark.parametrize("what", ["record", "part"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_finished_again_for_nothing(
    job: Job, plan: Plan, store: Store, folder: str, what: str, kind: str
) -> None:
    """Running again heals a record or a part that was damaged, from the ledger, byte for byte."""
    record, part = store.fetch(f"{folder}/done.json"), part_path(store, folder)
    before = record.read_bytes(), part.read_bytes()
    damage(record if what == "record" else part, kind)
    result = score_partition_shard(job, plan, 0)
    assert result.totals.requests == 0
    assert (record.read_bytes(), part.read_bytes()) == before


def test_finishing_twice_gives_the_same_bytes(
    job: Job, plan: Plan, store: Store, folder: str
) -> None:
    """A part and its record hold no clock and no attempt: the second finish changes nothing."""
    before = {entry.name: store.read(entry.name) for entry in store.entries(folder)}
    part = finish_shard(job, plan, plan.shards[0], store=store, check=nothing_lost)
    assert part == read_done(store, folder)
    assert {entry.name: store.read(entry.name) for entry in store.entries(folder)} == before


def test_who_lost_the_shard_creates_nothing(
    job: Job, plan: Plan, store: Store, folder: str
) -> None:
    """The check comes before the part and the record, and what it raises ends the finish."""
    part = part_path(store, folder)
    store.delete(f"{folder}/done.json")
    part.unlink()

    def lost() -> None:
        raise StateError("taken over")

    with pytest.raises(StateError, match="taken over"):
        finish_shard(job, plan, plan.shards[0], store=store, check=lost)
    assert not store.exists(f"{folder}/done.json")
    assert not part.exists()


def test_an_unfinished_shard_has_no_part(job: Job, plan: Plan, store: Store) -> None:
    """A shard with pairs that have no score yet is a typed error."""
    with pytest.raises(StateError, match="no score yet"):
        finish_shard(job, plan, plan.shards[0], store=store, check=nothing_lost)
    assert read_done(store, run_folder(plan.partition, plan.plan_id, 0)) is None


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_work_file_is_a_typed_error(plan: Plan, store: Store, kind: str) -> None:
    """A work file that differs from what the plan froze is never sent or merged."""
    file = plan.shards[0].files["passages"]
    damage(store.fetch(file.name), kind)
    with pytest.raises(PlanSpoiled, match="a planned file is"):
        open_work(store, file)


def test_scratch_space_is_empty_afterwards(store: Store, folder: str) -> None:
    """Planning and merging leave no scratch folder, which would hold text."""
    assert folder
    assert isinstance(store, LocalStore)
    assert not list(Path(store.location).glob("scratch-*"))
