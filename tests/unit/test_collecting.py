"""Garbage collection: each kind of garbage goes when it may, and not before."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs import publishing
from rerank_jobs.collecting import Collection, collect
from rerank_jobs.config import Job
from rerank_jobs.job import open_roots, plan_partition, run_partition, score_partition_shard
from rerank_jobs.ledger.claims import SILENCE_SECONDS, Claim, acquire
from rerank_jobs.ledger.library import list_scorers, read_library
from rerank_jobs.ledger.loading import list_segments, load_segments
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.plan.frozen import run_folder
from rerank_jobs.publish.generations import read_current, read_generations
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.storage import LocalStore, read_json, seal_json
from tests.builders import make_job, make_rows, write_rows
from tests.unit.ledger.kit import age_spending

DAY = 86_400.0
OWNER = make_airflow_owner("dag", "run", "task", 0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a job with one generation, everything 70 days old."""
    folder = tmp_path_factory.mktemp("collecting")
    job = make_job(folder)
    put_input(job, 1)
    run_partition(job)
    age(job, 70 * DAY)
    return folder


@pytest.fixture
def job(prepared: Path, tmp_path: Path) -> Job:
    shutil.copytree(prepared, tmp_path / "job")
    return make_job(tmp_path / "job")


@pytest.fixture
def state(job: Job) -> LocalStore:
    return LocalStore(job.state_root)


def put_input(job: Job, seed: int) -> None:
    write_rows(Path(job.base) / "candidates.parquet", make_rows(2, 3, seed=seed))


def age(job: Job, seconds: float) -> None:
    """Make all files, and what segments say of their time, older; frozen plans too."""
    store = LocalStore(job.state_root)
    dates = {entry.name: entry.modified for entry in store.entries()}
    age_spending(store, seconds)
    for root in (job.state_root, job.output_root, job.rejected_root):
        for path in Path(root).rglob("*"):
            if path.is_file():
                name = str(path.relative_to(root))
                old = dates[name] if root == job.state_root else path.stat().st_mtime
                os.utime(path, (old - seconds, old - seconds))


def backdate(store: LocalStore, plan_id: str) -> None:
    """Say that a plan was frozen a day before it was: plans of one second are of one age."""
    name = f"_all/plan/{plan_id}.json"
    store.replace(
        name, seal_json({**read_json(store, name), "created_at": "2020-01-01T00:00:00+00:00"})
    )


def kinds(found: Collection) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in found.garbage:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    return counts


def names(store: LocalStore) -> set[str]:
    return {entry.name for entry in store.entries()}


def check_whole(job: Job) -> None:
    roots = open_roots(job)
    current = read_current(roots.state, "_all")
    assert current is not None
    assert verify_generation(job, roots, current).problems == ()


def freeze(job: Job, seed: int, *, score: bool = False) -> str:
    """Freeze a plan of another table, and score it if told; return its id."""
    put_input(job, seed)
    plan = plan_partition(job).plan
    assert plan is not None
    if score:
        score_partition_shard(job, plan, 0)
    return plan.plan_id


def test_a_dry_run_changes_nothing(job: Job, state: LocalStore) -> None:
    """Without ``delete`` everything is named and nothing touched."""
    state.put_if_absent("_all/run/" + "f" * 32 + "/00000/work.rows-00000000.arrow", b"text")
    before = {name: state.read(name) for name in names(state)}
    found = collect(job, grace=0.0)
    assert kinds(found) == {"old ledgers": 5, "orphaned files": 1}
    assert not found.deleted
    assert {name: state.read(name) for name in names(state)} == before


def test_old_segments_go_once_they_are_in_the_library(job: Job, state: LocalStore) -> None:
    """After 62 days, and after their month, segments and what is beside them go; scores stay."""
    before = {file.name for one in list_scorers(state) for file in read_library(state, one).files}
    assert kinds(collect(job, keep=80 * DAY, delete=True)) == {}
    assert kinds(collect(job, delete=True)) == {"old ledgers": 5, "old claims": 2}
    assert list_segments(state, "_all/run") == []
    assert before <= names(state)
    put_input(job, 1)
    check_whole(job)
    assert run_partition(job).totals.requests == 0


def test_segments_of_this_month_stay_whatever_is_asked(job: Job) -> None:
    """A budget of the month counts them, so they stay even if nothing is to be kept."""
    put_input(job, 2)
    run_partition(job)
    found = collect(job, grace=0.0, keep=0.0)
    named = {item.name for item in found.garbage if item.kind == "old ledgers"}
    assert len(named) == 5  # of the run that is 70 days old


@pytest.mark.slow
def test_segments_that_no_library_has_stay(job: Job, state: LocalStore) -> None:
    """Without a marker, or without a file of the library, the segments are all there is."""
    (scorer,) = list_scorers(state)
    (file,) = read_library(state, scorer).files
    data = state.read(file.name)
    state.delete(file.name)
    assert kinds(collect(job)) == {}
    state.put_if_absent(file.name, data)
    assert kinds(collect(job)) == {"old ledgers": 5}
    for name in names(state):
        if "/compacted/" in name:
            state.delete(name)
    assert kinds(collect(job)) == {}


@pytest.mark.slow
def test_a_superseded_plan_goes_and_its_scores_are_kept(job: Job, state: LocalStore) -> None:
    """What it had paid is in the library before it goes, and the next plan uses it."""
    identity = freeze(job, 2, score=True)
    backdate(state, identity)
    paid = load_segments(state, f"_all/run/{identity}").pairs.num_rows
    freeze(job, 3)
    assert kinds(collect(job)).keys() <= {"old ledgers"}
    age(job, 2 * DAY)
    found = collect(job, delete=True)
    assert kinds(found)["superseded plans"] == 7  # plan, done, part, 4 work files
    assert not state.exists(f"_all/plan/{identity}.json")
    assert len(list_segments(state, f"_all/run/{identity}")) == 1
    put_input(job, 2)
    again = run_partition(job)
    assert (again.totals.requests, again.promise.passages_reused) == (0, paid)


def test_the_newest_plan_stays_however_old(job: Job, state: LocalStore) -> None:
    """A plan that nothing came after can be resumed for ever."""
    identity = freeze(job, 2, score=True)
    age(job, 400 * DAY)
    before = {name for name in names(state) if identity in name}
    collect(job, grace=0.0, keep=0.0, delete=True)
    assert before <= names(state)
    assert run_partition(job).totals.requests == 0


@contextmanager
def held(store: LocalStore, folder: str) -> Iterator[Claim]:
    claim = acquire(store, folder, OWNER)
    claim.beat()
    yield claim
    claim.__exit__(None, None, None)


def test_a_run_with_a_live_owner_is_left_alone(job: Job, state: LocalStore) -> None:
    """Whatever it is, while somebody's beat is younger than the silence; afterwards it goes."""
    identity = freeze(job, 2)
    backdate(state, identity)
    freeze(job, 3)
    age(job, 2 * DAY)
    now = time.time()
    with held(state, run_folder("_all", identity, 0)):
        for name in names(state):
            if identity in name:
                os.utime(state.fetch(name), (now - 2 * DAY, now - 2 * DAY))
        assert "superseded plans" not in kinds(collect(job))
        later = now + SILENCE_SECONDS + 1
        assert "superseded plans" in kinds(collect(job, now=later))


@pytest.mark.slow
def test_a_finished_sample_goes_after_the_grace(job: Job) -> None:
    """Its result is for looking at; its scores are in the library."""
    put_input(job, 2)
    sample = run_partition(job, limit_queries=1)
    assert "samples" not in kinds(collect(job))
    age(job, 2 * DAY)
    assert kinds(collect(job, delete=True))["samples"] == 3  # plan, done, part
    again = run_partition(job, limit_queries=1)
    assert (again.plan_id, again.totals.requests) == (sample.plan_id, 0)


@pytest.mark.slow
def test_what_a_crash_leaves_of_a_published_plan_goes(
    job: Job, state: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it was retired, a published plan holds text until the collection."""
    put_input(job, 2)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "retire_plan", die)
        with pytest.raises(KeyboardInterrupt):
            run_partition(job)
    age(job, 2 * DAY)
    assert kinds(collect(job, delete=True))["published plans"] == 6  # the part is kept
    assert not [name for name in names(state) if "/work." in name]
    check_whole(job)
    again = run_partition(job)
    assert (again.totals.requests, again.generation.number if again.generation else 0) == (0, 2)


@pytest.mark.slow
def test_parts_out_of_retention_go(job: Job, state: LocalStore) -> None:
    """A part that only an old generation names goes, those of the retained ones stay."""
    for seed in (2, 3):
        put_input(job, seed)
        run_partition(job)
    kept = [part.source for one in read_generations(state, "_all")[1:] for part in one.parts]
    old = read_generations(state, "_all")[0].parts[0].source
    assert old is not None
    state.put_if_absent(old, b"back again")
    age(job, 2 * DAY)
    collect(job, delete=True)
    assert not state.exists(old)
    assert all(source is not None and state.exists(source) for source in kept)


@pytest.mark.slow
def test_nothing_of_a_damaged_manifest_goes(job: Job, state: LocalStore) -> None:
    """Parts stay while a manifest cannot be read: it might name them, and may be restored."""
    put_input(job, 2)
    run_partition(job)
    first = state.fetch(f"_all/manifest/{1:020d}.json")
    first.write_bytes(first.read_bytes()[:-2])
    age_parts = {name for name in names(state) if "/part-" in name}
    age(job, 2 * DAY)
    collect(job, delete=True)
    assert age_parts <= names(state)


@pytest.mark.slow
def test_files_of_the_library_that_no_manifest_names_go(job: Job, state: LocalStore) -> None:
    """After the grace merged files and old manifests go; what is named stays."""
    put_input(job, 2)
    run_partition(job)
    (scorer,) = list_scorers(state)
    library = read_library(state, scorer)
    assert "library" not in kinds(collect(job))
    age(job, 2 * DAY)
    assert kinds(collect(job, delete=True))["library"] >= 1
    left = {name for name in names(state) if name.startswith("library/")}
    manifest = f"library/{scorer}/manifest/{library.number:020d}.json"
    assert left == {manifest, *(file.name for file in library.files)}


def test_what_dead_processes_left_goes(job: Job) -> None:
    """Temporary files after the grace, scratch folders once nobody holds their lock."""
    temporary = Path(job.state_root) / "_all" / ".tmp-1"
    temporary.write_bytes(b"half")
    scratch = Path(job.state_root) / "scratch-left"
    scratch.mkdir()
    (scratch / "lock").touch()
    assert kinds(collect(job, grace=0.0))["temporary files"] == 1
    found = collect(job, grace=0.0, delete=True)
    assert kinds(found)["scratch folders"] == 1
    assert not temporary.exists()
    assert not scratch.exists()


def test_strangers_are_named_and_stay(job: Job) -> None:
    """A Parquet file in the output that no manifest ever named may be anybody's."""
    stranger = Path(job.output_root) / "mine.parquet"
    stranger.write_bytes(b"mine")
    os.utime(stranger, (0, 0))
    found = collect(job, delete=True)
    assert found.strangers == (str(stranger),)
    assert stranger.exists()


def test_another_jobs_partition_is_left_alone(job: Job) -> None:
    """Two jobs may share a state root; a partition belongs to the job that published it."""
    other = job.model_copy(update={"name": "other"})
    found = collect(other, delete=True)
    assert (kinds(found), found.foreign) == ({}, ("_all",))


def test_a_partition_that_is_being_published_is_busy(job: Job, state: LocalStore) -> None:
    """The publisher goes first, and nothing of its partition goes."""
    state.put_if_absent("_all/run/" + "f" * 32 + "/00000/work.rows-00000000.arrow", b"text")
    before = names(state)
    with held(state, "_all/publish"):
        found = collect(job, grace=0.0, delete=True)
    assert (kinds(found), found.busy) == ({}, ("_all",))
    assert before <= names(state)


def test_a_job_that_never_ran_has_no_garbage(tmp_path: Path) -> None:
    """There is no state root, and none is made."""
    job = make_job(tmp_path)
    assert collect(job, delete=True).garbage == ()
    assert not Path(job.state_root).exists()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.slow
def test_a_collection_that_was_killed_anywhere_is_completed(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each deletion in turn, the next one removes the rest, and nothing is paid again."""
    state = LocalStore(job.state_root)
    backdate(state, freeze(job, 2, score=True))
    freeze(job, 3, score=True)
    age(job, 70 * DAY)
    call, finished = 0, False
    while not finished:
        call += 1
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        shutil.copytree(job.base, tmp_path / "again")
        copy = make_job(tmp_path / "again")
        with monkeypatch.context() as patch:
            die_at(patch, call)
            try:
                collect(copy, delete=True)
                finished = True
            except Killed:
                pass
        collect(copy, delete=True)
        assert "superseded plans" not in kinds(collect(copy))
        for seed in (2, 3):
            put_input(copy, seed)
            assert run_partition(copy).totals.requests == 0
        check_whole(copy)
    print(f"{call - 1} deletions, died at each")
    assert call > 8


def die_at(patch: pytest.MonkeyPatch, call: int) -> None:
    real: Callable[[LocalStore, str], None] = LocalStore.delete
    calls: list[str] = []

    def delete(store: LocalStore, name: str) -> Any:
        calls.append(name)
        if len(calls) >= call:
            raise Killed
        real(store, name)

    patch.setattr(LocalStore, "delete", delete)


@pytest.mark.slow
def test_a_plan_whose_work_files_are_gone_is_removed(job: Job, state: LocalStore) -> None:
    """It cannot be resumed; the next run plans anew."""
    identity = freeze(job, 2)
    (work,) = [one for one in names(state) if identity in one and "/work.rows" in one]
    state.delete(work)
    age(job, 2 * DAY)
    assert kinds(collect(job, delete=True))["broken plans"] == 4
    assert run_partition(job).generation is not None
