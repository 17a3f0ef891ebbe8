"""SIGKILL in the middle of a run: what was sealed is not sent again, and the bytes are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.storage import LocalStore
from tests.builders import make_job_data, make_rows, write_rows

QUERIES, CANDIDATES = 80, 100
DEADLINE = 120.0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Serve the embedded endpoint in a process of its own, 50 ms a reply."""
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--port", "0"]
    command += ["--scorer", "instant", "--latency-ms", "50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().rsplit(" ", 1)[1].strip()
        process.terminate()


def write_job(folder: Path, url: str, state: str) -> Path:
    """Write the job; few requests at once, so that a run lasts, and a reply a seal."""
    job = make_job_data(
        output={"path": f"{state}/out"},
        endpoint={"url": url, "max_concurrency": 2, "requests_per_minute": 60_000},
        ledger={"max_unsaved_replies": 3},
        shards={"rows_per_shard": 2_500},
    )
    path = folder / f"{state}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def start(job: Path) -> subprocess.Popen[str]:
    """Start a run as a user would."""
    command = [sys.executable, "-m", "rerank_jobs", "run", str(job), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    """Wait for a run to end well and return its JSON."""
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    found: dict[str, object] = json.loads(output)
    return found


def kill_after(job: Path, state: Path, segments: int) -> None:
    """Start a run and kill it as soon as that many segments are sealed."""
    with start(job) as process:
        wait_for_segments(state, segments, process)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def count_segments(folder: Path) -> int:
    """Count sealed segments under a state root."""
    return len(list(folder.glob("_all/run/*/*/seg/*.arrow")))


def wait_for_segments(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has sealed ``count`` segments."""
    end = time.monotonic() + DEADLINE
    while count_segments(folder) < count:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)


def read_bytes(folder: Path) -> dict[str, bytes]:
    """Return every published file's bytes by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.slow
def test_killed_runs_repeat_nothing_sealed_and_publish_the_same_bytes(
    tmp_path: Path, endpoint: str
) -> None:
    """Killed three times at 8,000 pairs, the run ends with an undisturbed run's bytes.

    The server counts pairs that were sent twice: never more than were unsealed at each kill, which
    is what was in flight (2 requests) and unsaved (at most 3 replies and the 2 that wait) of 100.
    """
    write_rows(tmp_path / "candidates.parquet", make_rows(QUERIES, CANDIDATES))
    undisturbed = finish(start(write_job(tmp_path, endpoint, "calm")))
    assert undisturbed["requests"] == QUERIES
    before = httpx.get(endpoint.replace("/api/v1", "/stats")).json()

    job = write_job(tmp_path, endpoint, "killed")
    state = tmp_path / "killed" / "out.state"
    for segments in (2, 9, 17):
        kill_after(job, state, segments)
    last = finish(start(job))

    after = httpx.get(endpoint.replace("/api/v1", "/stats")).json()
    passages = after["passages"] - before["passages"]
    repeated = passages - QUERIES * CANDIDATES
    assert 0 <= repeated <= 3 * (2 + 3 + 2) * CANDIDATES
    assert last["plan"]["paid_requests"] >= QUERIES  # type: ignore[index]
    assert read_bytes(tmp_path / "killed" / "out") == read_bytes(tmp_path / "calm" / "out")
    assert last["passages_scored"] == QUERIES * CANDIDATES


@pytest.mark.slow
def test_sealed_passages_are_not_sent_again(tmp_path: Path, endpoint: str) -> None:
    """After a kill the next run sends exactly the requests that no segment holds."""
    write_rows(tmp_path / "candidates.parquet", make_rows(QUERIES, CANDIDATES, seed=1))
    job = write_job(tmp_path, endpoint, "once")
    state = tmp_path / "once" / "out.state"
    kill_after(job, state, 8)
    sealed = load_segments(LocalStore(str(state)), "_all/run").spent.requests
    assert sealed >= 8
    assert finish(start(job))["requests"] == QUERIES - sealed
