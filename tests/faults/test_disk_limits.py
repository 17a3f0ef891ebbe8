"""Disks that are full, small or read-only: one line that says so, nothing published, nothing lost.

Once the cause is gone the next run ends with the bytes of a run that had room, and sends nothing
that was sealed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.builders import make_job_data, make_rows, write_rows

QUERIES, CANDIDATES = 12, 20
SECONDS = 120
UNSAVED = 2

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from rerank_jobs.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve the embedded endpoint in a process of its own."""
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--port", "0", "--scorer", "instant"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().rsplit(" ", 1)[1].strip()
        process.terminate()


class Setup:
    """A job over a table of its own, run as a user runs it."""

    def __init__(self, folder: Path, endpoint: str, seed: int) -> None:
        self.folder = folder
        self.endpoint = endpoint
        write_rows(folder / "candidates.parquet", make_rows(QUERIES, CANDIDATES, seed=seed))

    def write(self, name: str, output: str, state: str) -> Path:
        """Write a job with these places."""
        job = make_job_data(
            output={"path": output},
            state={"path": state},
            endpoint={"url": self.endpoint, "max_concurrency": 1, "requests_per_minute": 60_000},
            ledger={"max_unsaved_replies": UNSAVED},
            shards={"rows_per_shard": 90},
        )
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    def run(self, job: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a job, with files of at most ``limit`` bytes."""
        command = [sys.executable, "-m", "rerank_jobs", "run", str(job), "--json"]
        if limit is not None:
            command = [sys.executable, "-c", LIMITED, str(limit), "run", str(job), "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)

    def count_passages(self) -> int:
        """Return how many passages the endpoint was sent so far."""
        stats: dict[str, int] = httpx.get(self.endpoint.replace("/api/v1", "/stats")).json()
        return stats["passages"]


@pytest.fixture
def setup(tmp_path: Path, endpoint: str, request: pytest.FixtureRequest) -> Setup:
    """Return a job of its own for each test."""
    return Setup(tmp_path, endpoint, seed=sum(request.node.name.encode()))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a RAM disk of 2 MB; tests skip where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder))
    if not mounted:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=False, timeout=SECONDS)


def _mount(*arguments: str) -> bool:
    try:
        done = subprocess.run(
            ["mount", *arguments], capture_output=True, timeout=SECONDS, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def check_refused(done: subprocess.CompletedProcess[str], state: Path) -> None:
    """One line that says what is wrong, the code of a resumable stop, and no manifest."""
    told = [line for line in done.stderr.splitlines() if line.startswith("rerank-jobs:")]
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 3, done.stderr
    assert len(told) == 1, done.stderr
    assert "run again" in told[0]
    assert not list(state.glob("_all/manifest/*"))


def check_finished(setup: Setup, done: subprocess.CompletedProcess[str], output: Path) -> None:
    """Compare with the bytes of a run that had room everywhere."""
    assert done.returncode == 0, done.stderr
    calm = setup.write("calm", str(setup.folder / "calm"), str(setup.folder / "calm.state"))
    assert setup.run(calm).returncode == 0
    assert read_parts(output) == read_parts(setup.folder / "calm")


def read_parts(folder: Path) -> dict[str, bytes]:
    """Return published files by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 3_000, 9_000, 20_000])
def test_files_that_may_not_grow_stop_the_run_and_not_the_next(setup: Setup, limit: int) -> None:
    """Under RLIMIT_FSIZE a run ends in one line; without it the next one pays only the rest."""
    job = setup.write("job", "out", "state")
    before = setup.count_passages()
    check_refused(setup.run(job, limit), setup.folder / "state")
    done = setup.run(job)
    paid = setup.count_passages() - before
    assert QUERIES * CANDIDATES <= paid <= (QUERIES + UNSAVED + 1) * CANDIDATES
    check_finished(setup, done, setup.folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kept_kb", [0, 8, 64, 200])
def test_a_full_state_disk_stops_the_run_and_not_the_next(
    setup: Setup, small_disk: Path, kept_kb: int
) -> None:
    """A small disk that another file fills ends the run in one line; with room it goes on."""
    job = setup.write("job", "out", str(small_disk / "state"))
    filler = fill(small_disk, kept_kb)
    before = setup.count_passages()
    check_refused(setup.run(job), small_disk / "state")
    filler.unlink()
    done = setup.run(job)
    paid = setup.count_passages() - before
    assert QUERIES * CANDIDATES <= paid <= (QUERIES + UNSAVED + 1) * CANDIDATES
    check_finished(setup, done, setup.folder / "out")


def fill(disk: Path, kept_kb: int) -> Path:
    """Leave so many kilobytes free on a disk."""
    filler = disk / "filler"
    facts = os.statvfs(disk)
    filler.write_bytes(bytes(facts.f_bavail * facts.f_frsize - kept_kb * 1024))
    return filler


@pytest.mark.slow
def test_a_full_output_disk_publishes_nothing(setup: Setup, small_disk: Path) -> None:
    """Everything is paid and sealed; with room it is published and nothing is sent."""
    job = setup.write("job", str(small_disk / "out"), "state")
    filler = fill(small_disk, 4)
    check_refused(setup.run(job), setup.folder / "state")
    filler.unlink()
    before = setup.count_passages()
    done = setup.run(job)
    assert setup.count_passages() == before
    check_finished(setup, done, small_disk / "out")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["out", "state"])
def test_a_read_only_root_stops_the_run_and_not_the_next(
    setup: Setup, small_disk: Path, place: str
) -> None:
    """A root on a disk that is mounted read-only ends the run in one line that names the path."""
    places = {"out": "out", "state": "state", place: str(small_disk / place)}
    job = setup.write("job", places["out"], places["state"])
    assert _mount("-o", "remount,ro", str(small_disk))
    done = setup.run(job)
    check_refused(done, setup.folder / "state")
    assert str(small_disk) in done.stderr
    assert "Read-only" in done.stderr
    assert _mount("-o", "remount,rw", str(small_disk))
    check_finished(setup, setup.run(job), setup.folder / places["out"])


@pytest.mark.slow
def test_state_may_lie_on_another_file_system_than_the_output(
    setup: Setup, small_disk: Path
) -> None:
    """Where parts cannot be linked they are copied: the same bytes."""
    job = setup.write("job", "out", str(small_disk / "state"))
    check_finished(setup, setup.run(job), setup.folder / "out")


@pytest.mark.parametrize("place", ["out", "state"])
def test_a_root_below_a_file_is_told(setup: Setup, place: str) -> None:
    """A path that leads through a file ends the run in one line that names it."""
    (setup.folder / "file").write_text("x")
    places = {"out": "out", "state": "state", place: "file/root"}
    done = setup.run(setup.write("job", places["out"], places["state"]))
    assert "Traceback" not in done.stderr
    assert done.returncode in {2, 3}, done.stderr
    assert str(setup.folder / "file") in done.stderr


def test_json_says_nothing_where_nothing_was_done(setup: Setup) -> None:
    """A refused run prints no result: whoever parses it cannot take it for one."""
    done = setup.run(setup.write("job", "out", "state"), limit=100)
    assert (done.returncode, done.stdout) == (3, "")
    assert json.dumps({}) not in done.stdout
