"""The state root's format: an earlier one is upgraded before it is written to, others refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import StateError
from rerank_jobs.job import open_roots, preview_partition, run_partition
from rerank_jobs.ledger.compaction import read_markers
from rerank_jobs.ledger.library import read_library
from rerank_jobs.ledger.loading import list_segments
from rerank_jobs.publish.generations import read_current, read_generations
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.publishing import publish_newest
from rerank_jobs.reading import read_current as read_table
from rerank_jobs.storage import LocalStore, read_json, seal_json
from rerank_jobs.upkeep import STATE_FORMAT, check_state, prepare_state
from tests.builders import make_job, make_rows, write_rows


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a job whose state root is as version 1 left it after one run."""
    folder = tmp_path_factory.mktemp("format-1")
    job = make_job(folder)
    put_input(job, 1)
    run_partition(job)
    downgrade(LocalStore(job.state_root))
    return folder


@pytest.fixture
def job(prepared: Path, tmp_path: Path) -> Job:
    """Return the job over a copy of its folder."""
    shutil.copytree(prepared, tmp_path / "job")
    return make_job(tmp_path / "job")


def put_input(job: Job, seed: int) -> None:
    write_rows(Path(job.base) / "candidates.parquet", make_rows(4, 5, seed=seed))


def downgrade(state: LocalStore) -> None:
    """Turn a root into one of format 1: segments by library manifest, no markers, no kept parts."""
    change(state, "FORMAT", format=1)
    (scorer,) = {entry.name.split("/")[1] for entry in state.entries("library")}
    number = read_library(state, scorer).number
    manifest = f"library/{scorer}/manifest/{number:020d}.json"
    document = read_json(state, manifest)
    (file,) = document["files"]
    file["segments"] = list_segments(state, "_all/run")
    del document["library_id"]
    state.replace(manifest, seal_json({**document, "version": 1}))
    for entry in state.entries("_all"):
        if "/compacted/" in entry.name or "/part-" in entry.name:
            state.delete(entry.name)
        if "/manifest/" in entry.name:
            generation = read_json(state, entry.name)
            for part in generation["parts"] + generation["rejected"]:
                del part["source"]
            del generation["ranking"]
            state.replace(entry.name, seal_json(generation))


def change(state: LocalStore, name: str, **values: Any) -> None:
    state.replace(name, seal_json({**read_json(state, name), **values}))


def snapshot(job: Job) -> dict[str, bytes]:
    state = LocalStore(job.state_root)
    return {entry.name: state.read(entry.name) for entry in state.entries()}


def scorer_of(job: Job) -> str:
    current = read_current(open_roots(job).state, "_all")
    assert current is not None
    return str(current.document["scorer_id"])


def test_a_run_upgrades_and_pays_for_nothing_twice(job: Job) -> None:
    """The next run brings the root to this version's format, and the table stays as it is."""
    again = run_partition(job)
    state = LocalStore(job.state_root)
    assert again.totals.requests == 0
    assert read_json(state, "FORMAT")["format"] == STATE_FORMAT == 2
    library = read_library(state, scorer_of(job))
    assert library.old_segments == frozenset()
    markers = read_markers(state, f"_all/run/{again.plan_id}")
    assert {name for one in markers for name in one.segments} == set(
        list_segments(state, "_all/run")
    )
    roots = open_roots(job)
    (generation,) = read_generations(roots.state, "_all")
    assert verify_generation(job, roots, generation).problems == ()


def test_scores_of_an_earlier_format_are_used(job: Job) -> None:
    """After the upgrade a changed table reuses what was paid before it."""
    rows = [row for row in make_rows(4, 5, seed=1) if row["query_id"] != "q0000"]
    write_rows(Path(job.base) / "candidates.parquet", rows)
    result = run_partition(job)
    assert result.totals.requests == 0
    assert result.promise.passages_reused == result.promise.passages > 0


def test_reading_upgrades_nothing(job: Job) -> None:
    """Previews, verification and readers leave a root of an earlier format byte for byte."""
    before = snapshot(job)
    assert preview_partition(job).current is not None
    put_input(job, 2)
    assert preview_partition(job).promise.requests > 0
    roots = open_roots(job)
    current = read_current(roots.state, "_all")
    assert current is not None
    assert verify_generation(job, roots, current).problems == ()
    assert read_table(job, "_all").rows == 20
    assert snapshot(job) == before


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_upgrade_that_was_killed_anywhere_is_done_again(
    job: Job, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """Killed at each change in turn, the next call ends with the same root, by names and scores."""
    state, old = LocalStore(job.state_root), snapshot(job)
    prepare_state(state)
    wanted = {entry.name for entry in state.entries()}
    for call in range(1, 20):
        restore(state, old)
        with monkeypatch.context() as patch:
            calls = die_at(patch, call, after=after)
            try:
                prepare_state(state)
            except Killed:
                assert len(calls) == call
        prepare_state(state)
        assert {entry.name for entry in state.entries()} == wanted
        assert read_json(state, "FORMAT")["format"] == STATE_FORMAT
        if len(calls) < call:
            break
    assert 3 <= call < 19


def restore(state: LocalStore, files: dict[str, bytes]) -> None:
    for entry in state.entries():
        state.delete(entry.name)
    for name, data in files.items():
        state.put_if_absent(name, data)


def die_at(patch: pytest.MonkeyPatch, call: int, *, after: bool) -> list[str]:
    """Let the n-th change of a store be the last; return the names of what was changed."""
    calls: list[str] = []
    for name in ("put_if_absent", "replace"):
        real = getattr(LocalStore, name)

        def put(store: LocalStore, target: str, data: bytes, real: Any = real) -> Any:
            calls.append(target)
            if len(calls) == call and not after:
                raise Killed
            done = real(store, target, data)
            if len(calls) == call:
                raise Killed
            return done

        patch.setattr(LocalStore, name, put)
    return calls


@pytest.mark.parametrize("found", [3, None])
def test_another_format_is_refused(job: Job, found: object) -> None:
    """A newer root is named with both versions and what to do, by writers and by previews."""
    state = LocalStore(job.state_root)
    change(state, "FORMAT", format=found)
    put_input(job, 2)
    for use in (run_partition, preview_partition):
        with pytest.raises(StateError, match=rf"state format {found}, .* 1 to 2: use the version"):
            use(job)


def test_a_damaged_format_is_no_new_root(job: Job) -> None:
    """A torn FORMAT is an error: a new salt would make everything paid again."""
    path = Path(job.state_root) / "FORMAT"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StateError, match="damaged"):
        run_partition(job)


@pytest.mark.parametrize("salt", [None, b"another"])
def test_a_salt_that_is_gone_or_changed_is_an_error(job: Job, salt: bytes | None) -> None:
    """Without its salt nothing paid is found: the message says to restore it."""
    path = Path(job.state_root) / "salt"
    path.unlink()
    if salt is not None:
        path.write_bytes(salt)
    with pytest.raises(StateError, match="salt: gone or changed: restore it"):
        check_state(LocalStore(job.state_root))


def test_publishing_alone_upgrades_too(job: Job) -> None:
    """A table that is checked and mended by ``publish`` leaves a root of this version's format."""
    assert publish_newest(job, "_all").generation.number == 1
    assert read_json(LocalStore(job.state_root), "FORMAT")["format"] == STATE_FORMAT
