"""Whether an input is there: what a sensor's look finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import JobError
from rerank_jobs.tables.arrival import is_input_there
from tests.builders import LONG_COLUMNS, make_job

DAY = "2026-11-22"


def make_daily(folder: Path, path: str = "in/{partition}") -> Job:
    """Return a job with a folder ``ds=KEY`` per day."""
    parts: dict[str, Any] = {"input": {"path": path, "columns": LONG_COLUMNS}}
    return make_job(folder, **parts, partition={"template": "ds={key}"})


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_folder_is_there_with_its_first_parquet_file(tmp_path: Path) -> None:
    """A missing or empty folder, hidden files and files of other kinds are not enough."""
    job, folder = make_daily(tmp_path), tmp_path / "in" / f"ds={DAY}"
    assert not is_input_there(job, DAY)
    for name in ("_temporary/part-0.parquet", ".part-0.parquet", "part-0.csv"):
        touch(folder / name)
    assert not is_input_there(job, DAY)
    touch(folder / "hour=03" / "part-0.parquet")
    assert is_input_there(job, DAY)
    assert not is_input_there(job, "2026-11-23")


def test_a_file_is_there_when_it_is(tmp_path: Path) -> None:
    """A path that names one file per partition is looked at as it is."""
    job = make_daily(tmp_path, "in/{partition}.parquet")
    assert not is_input_there(job, DAY)
    touch(tmp_path / "in" / f"ds={DAY}.parquet")
    assert is_input_there(job, DAY)
    assert not is_input_there(job, DAY, f"{DAY}.done")
    touch(tmp_path / "in" / f"{DAY}.done")
    assert is_input_there(job, DAY, f"{DAY}.done")


def test_a_ready_file_holds_back_a_folder_that_is_still_filled(tmp_path: Path) -> None:
    """With one named the files alone are not enough, nor is it alone; it may stand beside."""
    job, folder = make_daily(tmp_path), tmp_path / "in" / f"ds={DAY}"
    touch(tmp_path / "in" / f"ds={DAY}.done")
    assert not is_input_there(job, DAY, "../{partition}.done")
    touch(folder / "part-0.parquet")
    assert is_input_there(job, DAY, "../{partition}.done")
    assert not is_input_there(job, DAY, "_SUCCESS")
    touch(folder / "_SUCCESS")
    assert is_input_there(job, DAY, "_SUCCESS")


@pytest.mark.parametrize(
    ("path", "partition", "ready", "says"),
    [
        ("s3://shop/{partition}", DAY, "", "s3:// locations are not supported"),
        ("in/{partition}", "_all", "", "name one with --partition"),
        ("in/{partition}", "../etc", "", "partition key"),
        ("in/{partition}", DAY, "s3://shop/_SUCCESS", "name a path from the partition's folder"),
    ],
)
def test_what_no_wait_can_mend_is_an_error(
    tmp_path: Path, path: str, partition: str, ready: str, says: str
) -> None:
    """A location that cannot be reached is told at once instead of waited for."""
    with pytest.raises(JobError, match=says):
        is_input_there(make_daily(tmp_path, path), partition, ready)
