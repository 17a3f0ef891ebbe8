"""A process that was taken over leaves what it paid, and no part, record, manifest or library."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank_jobs import shard
from rerank_jobs.config import Job
from rerank_jobs.errors import Busy, Fenced
from rerank_jobs.job import (
    Planned,
    open_roots,
    plan_partition,
    publish_partition,
    score_partition_shard,
)
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.plan.frozen import Plan, run_folder
from rerank_jobs.publish.generations import read_current
from rerank_jobs.publish.leftovers import publish_folder
from rerank_jobs.publishing import restore_partition
from rerank_jobs.storage import LocalStore, Put
from tests.builders import make_job, make_rows, read_output, write_rows

ME = make_airflow_owner("dag", "run", "publish", 0)
OTHER = make_airflow_owner("dag", "another run", "publish", 0)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_rows(tmp_path / "candidates.parquet", make_rows(5, 4))
    return make_job(tmp_path)


def plan_whole(job: Job) -> tuple[Planned, Plan]:
    planned = plan_partition(job)
    assert planned.plan is not None
    return planned, planned.plan


def list_state(job: Job) -> set[str]:
    """Return names of state objects without those of claims."""
    names = {entry.name for entry in LocalStore(job.state_root).entries()}
    return {name for name in names if "/claim/" not in name}


def test_a_run_that_is_fenced_after_scoring_leaves_segments_and_its_record_alone(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken over before its merge, all that it leaves is what it paid and what that was."""
    planned, plan = plan_whole(job)
    folder = run_folder("_all", planned.plan_id, 0)
    before = list_state(job)
    record = shard._record

    def lose(*arguments: object) -> None:
        record(*arguments)  # type: ignore[arg-type]
        acquire(LocalStore(job.state_root), folder, ME)

    monkeypatch.setattr(shard, "_record", lose)
    with pytest.raises(Fenced):
        score_partition_shard(job, plan, 0, owner=ME)
    left = {name.removeprefix(f"{folder}/") for name in list_state(job) - before}
    assert {name.partition("-")[0].partition("/")[0] for name in left} == {"seg", "run"}


def test_a_publisher_that_is_fenced_commits_nothing_and_clears_nothing_up(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken over while it copies: no manifest, no library, and its successor finishes at once."""
    planned, plan = plan_whole(job)
    score_partition_shard(job, plan, 0, owner=ME)
    before = list_state(job)
    put_file = LocalStore.put_file_if_absent
    state = LocalStore(job.state_root)

    def lose(store: LocalStore, name: str, source: Path) -> Put:
        if store.location == job.output_root:
            acquire(state, publish_folder("_all"), ME)
        return put_file(store, name, source)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put_file_if_absent", lose)
        with pytest.raises(Fenced):
            publish_partition(job, planned, owner=ME)
    assert read_current(state, "_all") is None
    added = list_state(job) - before
    assert [name.split("/")[1] for name in added] == ["publish"]  # the list of its copies
    assert publish_partition(job, planned, owner=ME).number == 1
    assert read_output(job).num_rows == 20


def test_a_publisher_that_is_fenced_does_not_even_copy(job: Job) -> None:
    """Who finds that it was taken over before its first copy leaves the output as it is."""
    planned, plan = plan_whole(job)
    score_partition_shard(job, plan, 0, owner=ME)
    state = LocalStore(job.state_root)
    with acquire(state, publish_folder("_all"), OTHER), pytest.raises(Busy):
        publish_partition(job, planned, owner=ME)
    assert not Path(job.output_root).exists()


def test_going_back_needs_the_same_claim(job: Job) -> None:
    """While another owner publishes the partition, going back is refused and changes nothing."""
    for seed in (1, 2):
        write_rows(Path(job.base) / "candidates.parquet", make_rows(5, 4, seed=seed))
        planned, plan = plan_whole(job)
        score_partition_shard(job, plan, 0, owner=ME)
        publish_partition(job, planned, owner=ME)
    table = read_output(job)
    roots = open_roots(job)
    with acquire(roots.state, publish_folder("_all"), OTHER), pytest.raises(Busy):
        restore_partition(job, "_all", 1, owner=ME)
    assert read_output(job).equals(table)
    assert restore_partition(job, "_all", 1, owner=ME).number == 3
