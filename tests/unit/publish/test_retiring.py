"""After publishing: state holds text only in what it retains, and nothing is paid again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs import job as jobs
from rerank_jobs.config import Job
from rerank_jobs.job import RunResult, open_roots, plan_partition, run_partition
from rerank_jobs.publish.generations import read_generations
from rerank_jobs.publish.retention import name_sources
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.publishing import restore_partition
from rerank_jobs.storage import LocalStore
from tests.builders import make_job, make_rows, write_rows

QUERY, DOCUMENT = "canaryquagga", "canarydodo"


def make_canary_rows(seed: int) -> list[dict[str, Any]]:
    """Return rows whose every query and document holds a canary, one of them to be rejected."""
    rows = make_rows(6, 5, seed=seed)
    for row in rows:
        row["query"] = f"{QUERY} {row['query']}"
        row["document"] = f"{DOCUMENT} {row['document']}"
    return [*rows, {**rows[0]}]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path)


def run_on(job: Job, seed: int) -> RunResult:
    write_rows(Path(job.base) / "candidates.parquet", make_canary_rows(seed))
    return run_partition(job)


def read_everything(path: Path) -> str:
    """Return a file's bytes as text, and all that an Arrow or Parquet reader finds in it."""
    found = path.read_bytes().decode("latin-1")
    if path.suffix == ".parquet":
        found += str(pq.read_table(path).to_pylist())
    if path.suffix == ".arrow":
        with pa.OSFile(str(path), "r") as source, pa.ipc.open_file(source) as reader:
            found += str(reader.read_all().to_pylist())
    return found


def state_files(job: Job) -> list[Path]:
    return sorted(path for path in Path(job.state_root).rglob("*") if path.is_file())


def parts(job: Job) -> dict[str, bytes]:
    """Return the published and the rejected files."""
    return {
        str(path): path.read_bytes()
        for root in (job.output_root, job.rejected_root)
        for path in Path(root).rglob("*")
        if path.is_file()
    }


def files_with_text(job: Job) -> set[str]:
    """Return the state files that hold a query or a document, compressed or not."""
    found = set()
    for path in state_files(job):
        text = read_everything(path)
        if QUERY in text or DOCUMENT in text:
            found.add(str(path.relative_to(job.state_root)))
    return found


@pytest.mark.parametrize("keep", [0, 1])
def test_no_text_is_left_under_state_but_in_retained_parts(tmp_path: Path, keep: int) -> None:
    """Queries and documents stand in the state parts of retained generations and nowhere else."""
    job = make_job(tmp_path, publish={"keep_generations": keep})
    for seed in (1, 2, 3):
        assert run_on(job, seed).totals.requests > 0
    generations = read_generations(open_roots(job).state, "_all")
    assert len(generations) == 3
    kept = name_sources(generations[-(keep + 1) :])
    assert any(DOCUMENT in read_everything(Path(path)) for path in parts(job))
    assert files_with_text(job) == kept
    assert len(kept) == 2 * (keep + 1)


def test_the_plan_goes_the_segments_stay(job: Job) -> None:
    """What can be paid for only once is kept; what only a run needs is not."""
    run_on(job, 1)
    kinds = {
        path.relative_to(job.state_root).parts[1] if "_all" in path.parts else path.parts[-1]
        for path in state_files(job)
    }
    assert "plan" not in kinds
    assert {"run", "manifest"} <= kinds
    names = [path.name for path in state_files(job)]
    assert [name for name in names if name.endswith(".arrow")] == ["00000001-000000.arrow"]
    assert not [name for name in names if name.startswith(("work.", "done"))]


def test_content_that_goes_back_costs_nothing_and_has_the_same_bytes(job: Job) -> None:
    """After another input in between, the first one's table returns byte for byte, unpaid."""
    first = run_on(job, 1)
    one = parts(job)
    second = run_on(job, 2)
    assert parts(job).keys().isdisjoint(one)
    third = run_on(job, 1)
    assert (first.totals.requests > 0, second.totals.requests > 0) == (True, True)
    assert third.totals.requests == 0
    assert parts(job) == one
    assert third.generation is not None
    assert (third.generation.number, third.plan_id) == (3, first.plan_id)
    assert first.generation is not None
    assert third.generation.parts == first.generation.parts


def test_running_again_sends_and_changes_nothing(job: Job) -> None:
    """The second run of an unchanged partition leaves every file as it was."""
    run_on(job, 1)
    before = {path: path.read_bytes() for path in state_files(job)} | parts(job)
    again = run_on(job, 1)
    assert again.totals.requests == 0
    assert {path: path.read_bytes() for path in state_files(job)} | parts(job) == before
    assert again.generation is not None
    assert again.generation.number == 1


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_a_crash_while_retiring_is_healed_by_the_next_run(
    job: Job, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    """Killed anywhere between the commit and the last deletion, the next run finishes the work."""
    delete, count = LocalStore.delete, 0

    def die(store: LocalStore, name: str) -> None:
        nonlocal count
        if store.location == job.state_root:
            if count == deleted:
                raise KeyboardInterrupt
            count += 1
        delete(store, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            run_on(job, 1)
    again = run_on(job, 1)
    assert again.totals.requests == 0
    generations = read_generations(open_roots(job).state, "_all")
    assert files_with_text(job) == name_sources(generations)
    assert [generation.number for generation in generations] == [1]
    assert verify_generation(job, open_roots(job), generations[0]).problems == ()


def test_scores_of_a_plan_that_was_never_published_are_used_by_the_next(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paid is paid: what a stopped plan sealed is reused when the input has changed since."""
    rows = make_canary_rows(1)
    write_rows(Path(job.base) / "candidates.parquet", rows)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "publish_partition", die)
        with pytest.raises(KeyboardInterrupt):
            run_partition(job)
    changed = [row for row in rows if row["query_id"] != "q0000"]
    write_rows(Path(job.base) / "candidates.parquet", changed)
    result = run_partition(job)
    assert result.totals.requests == 0
    assert result.promise.passages_reused == result.promise.passages > 0


def test_what_is_published_verifies(job: Job) -> None:
    """The table that a run leaves is what its manifest says, and a later one's too."""
    for seed in (1, 2):
        generation = run_on(job, seed).generation
        assert generation is not None
        found = verify_generation(job, open_roots(job), generation)
        assert (found.problems, found.documents, found.rejected) == ((), 30, 1)


def test_a_run_that_is_overtaken_finds_its_plan_published(job: Job) -> None:
    """Of two runs planned together the later one sends nothing, and returns the other's result."""
    write_rows(Path(job.base) / "candidates.parquet", make_canary_rows(1))
    others: list[RunResult] = []
    mine = run_partition(job, on_plan=lambda _: others.append(run_partition(job)))
    (other,) = others
    assert (other.totals.requests > 0, mine.totals.requests) == (True, 0)
    assert mine.generation is not None
    assert mine.generation == other.generation


@pytest.mark.parametrize("how", ["removed", "cut", "removed with its copy"])
def test_output_that_was_removed_or_damaged_comes_back_unpaid(job: Job, how: str) -> None:
    """A table that somebody spoilt is whole again, unpaid, when the job runs again."""
    first = run_on(job, 1).generation
    before = parts(job)
    for path in map(Path, before):
        data = path.read_bytes()
        path.unlink()
        if how == "cut":
            path.write_bytes(data[:-1])
    if how == "removed with its copy":
        assert first is not None
        for source in name_sources([first]):
            (Path(job.state_root) / source).unlink()
    again = run_on(job, 1)
    assert again.totals.requests == 0
    assert parts(job) == before
    assert again.generation == first


def test_a_withdrawn_plan_that_runs_again_sends_and_changes_nothing(job: Job) -> None:
    """After going back, the nightly rerun of what was taken back leaves everything as it is."""
    run_on(job, 1)
    one = parts(job)
    taken_back = run_on(job, 2)
    back = restore_partition(job, "_all", 1)
    assert parts(job) == one
    before = {path: path.read_bytes() for path in state_files(job)}
    planned = plan_partition(job)
    assert (planned.withdrawn, planned.current) == (True, back)
    assert planned.promise == taken_back.promise
    again = run_on(job, 2)
    assert (again.totals.requests, again.generation) == (0, back)
    assert parts(job) == one
    claims = "publish/claim"
    after = {path: path.read_bytes() for path in state_files(job)}
    assert {p: b for p, b in after.items() if claims not in str(p)} == {
        p: b for p, b in before.items() if claims not in str(p)
    }
