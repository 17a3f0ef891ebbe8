"""Reading by manifest: one generation whole, or the next one, or a typed error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import rerank_jobs
from rerank_jobs import read_current, read_current_table
from rerank_jobs.config import Job
from rerank_jobs.errors import JobError, SnapshotGone, StateError
from rerank_jobs.job import run_partition
from rerank_jobs.publish.snapshots import GENERATION_KEY, Snapshot
from rerank_jobs.reading import read_generation
from tests.builders import make_job, make_rows, write_rows

ROWS = 30


def run_on(job: Job, seed: int, candidates: int = 5) -> None:
    write_rows(Path(job.base) / "candidates.parquet", make_rows(6, candidates, seed=seed))
    run_partition(job)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = make_job(tmp_path, shards={"rows_per_shard": 15})
    run_on(job, 1)
    return job


def test_a_snapshot_names_the_current_generation(job: Job) -> None:
    """Number, plan, rows and paths are the manifest's, and the paths are the files there are."""
    snapshot = read_current(job)
    assert (snapshot.generation, snapshot.partition, snapshot.rows) == (1, "_all", ROWS)
    assert snapshot.plan_id == snapshot.manifest["plan_id"]
    assert sorted(snapshot.paths) == sorted(map(str, Path(job.output_root).glob("*.parquet")))
    assert len(snapshot.paths) == 2


def test_a_table_is_read_whole_and_says_its_generation(job: Job) -> None:
    """All rows in published order; chosen columns alone; the number in the schema's metadata."""
    table = read_current_table(job)
    assert table.num_rows == ROWS
    assert table.schema.metadata[GENERATION_KEY] == b"1"
    paths = read_current(job).paths
    assert table.column("document_id").to_pylist() == [
        value for path in paths for value in pq.read_table(path).column("document_id").to_pylist()
    ]
    narrow = read_current_table(job, columns=["query_id", "rerank_rank"])
    assert narrow.column_names == ["query_id", "rerank_rank"]
    assert narrow.num_rows == ROWS
    with pytest.raises(JobError, match=r"no column rank; there are query_id, "):
        read_current_table(job, columns=["query_id", "rank"])


def test_a_job_file_may_be_named(job: Job, tmp_path: Path) -> None:
    """A path does as well as a job."""
    import yaml

    from tests.builders import make_job_data

    (tmp_path / "job.yaml").write_text(yaml.safe_dump(make_job_data()), encoding="utf-8")
    assert read_current(tmp_path / "job.yaml") == read_current(str(tmp_path / "job.yaml"))
    assert read_current(tmp_path / "job.yaml").paths == read_current(job).paths


def test_before_the_first_generation_there_is_a_typed_error(tmp_path: Path) -> None:
    """It says what makes the first one; a key that cannot be is another error."""
    job = make_job(tmp_path)
    for read in (read_current, read_current_table):
        with pytest.raises(StateError, match="nothing is published yet: rerank-jobs run does it"):
            read(job)
    with pytest.raises(JobError, match="partition"):
        read_current(job, "../escape")


def test_an_old_snapshot_is_gone_and_the_current_one_is_read(job: Job) -> None:
    """What a newer generation replaced is never read half: the holder is told to read again."""
    old = read_current(job)
    run_on(job, 2)
    with pytest.raises(SnapshotGone, match="newer generation than 1"):
        old.to_table()
    assert read_current_table(job).schema.metadata[GENERATION_KEY] == b"2"


def test_a_part_that_vanishes_while_it_is_read_leads_to_the_newer_generation(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation published between manifest and files is the one that comes back."""
    read = Snapshot.to_table

    def overtaken(snapshot: Snapshot, columns: Any = None) -> object:
        monkeypatch.undo()
        run_on(job, 2)
        return read(snapshot, columns)

    monkeypatch.setattr(Snapshot, "to_table", overtaken)
    table = read_current_table(job)
    assert table.schema.metadata[GENERATION_KEY] == b"2"
    assert table.num_rows == ROWS


def test_who_is_overtaken_without_end_gets_an_error(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of tries is bounded."""
    seeds = iter(range(2, 100))
    read = Snapshot.to_table

    def overtaken(snapshot: Snapshot, columns: Any = None) -> object:
        run_on(job, next(seeds), candidates=2)
        return read(snapshot, columns)

    monkeypatch.setattr("rerank_jobs.reading.MOST_TRIES", 2)
    monkeypatch.setattr(Snapshot, "to_table", overtaken)
    with pytest.raises(StateError, match="2 generations were published while one was read"):
        read_current_table(job)


@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
def test_a_spoilt_file_of_the_current_generation_is_an_error(job: Job, how: str) -> None:
    """Neither a missing nor a damaged file is read around: the message says what mends it."""
    path = Path(read_current(job).paths[1])
    data = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(data[:-1])
    if how == "changed":
        path.write_bytes(data[:200] + bytes(40) + data[240:])
    with pytest.raises(StateError, match="rerank-jobs publish puts it back"):
        read_current_table(job)


def test_a_retained_generation_is_read_from_its_copies(job: Job) -> None:
    """The earlier table is there whole, under state; one that is not kept is a typed error."""
    first = read_current_table(job)
    run_on(job, 2)
    earlier = read_generation(job, "_all", 1)
    assert earlier.to_table().equals(first)
    assert all(path.startswith(job.state_root) for path in earlier.paths)
    assert read_generation(job, "_all", 2) == read_current(job)
    run_on(job, 3)
    with pytest.raises(StateError, match="generation 1 is not retained"):
        read_generation(job, "_all", 1)
    with pytest.raises(StateError, match="no generation 9: the current one is 3"):
        read_generation(job, "_all", 9)


def test_importing_the_package_loads_nothing_else() -> None:
    """Readers are loaded by name on first use; an unknown name is an ordinary error."""
    script = (
        "import sys; before = set(sys.modules); import rerank_jobs;"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("rerank_jobs")} == {"rerank_jobs"}
    assert {"pyarrow", "duckdb", "yaml", "pydantic"}.isdisjoint(loaded)
    assert {"Snapshot", "read_current", "read_current_table"} <= set(rerank_jobs.__all__)
    assert rerank_jobs.Snapshot is Snapshot
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = rerank_jobs.nothing_such
