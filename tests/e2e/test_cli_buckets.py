"""State and output in buckets: a job runs, resumes, publishes and verifies as in folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rerank_jobs.storage import Store, open_store
from tests.s3_server import S3Server
from tests.unit.cli.kit import (
    DOCUMENT_CANARY,
    call,
    call_json,
    make_rows,
    read_stats,
    serve,
    set_up,
    write_job,
    write_table,
)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint."""
    with serve("--scorer", "instant") as address:
        yield address


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def base(request: pytest.FixtureRequest) -> str:
    """Return the location of an empty bucket."""
    if request.param == "memory":
        return f"memory://{uuid4().hex}"
    return str(request.getfixturevalue("bucket"))


def read_all(store: Store) -> dict[str, bytes]:
    return {entry.name: store.read(entry.name) for entry in store.entries()}


def read_parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_a_job_in_a_bucket_runs_verifies_and_runs_again_for_nothing(
    tmp_path: Path, capsys: Capture, url: str, base: str
) -> None:
    """Output, rejected rows and state stand beside each other there, with a folder's bytes.

    The second run sends nothing and changes nothing; no file is written beside the job's.
    """
    rows = [*make_rows(), {**make_rows()[0], "query_id": "blank", "query": " "}]
    changes: dict[str, Any] = {"endpoint": {"url": url}, "shards": {"rows_per_shard": 5}}
    local = call_json(capsys, "run", set_up(tmp_path / "local", changes, rows))
    job = set_up(tmp_path / "far", {**changes, "output": {"path": f"{base}/out"}}, rows)
    first = call_json(capsys, "run", job)
    assert (first["requests"], first["rows_rejected"]) == (3, 1)
    assert (first["output"], first["plan_id"]) == (f"{base}/out", local["plan_id"])
    kept = {root: read_all(open_store(f"{base}/{root}")) for root in ("out", "out.rejected")}
    assert kept["out"] == read_parts(tmp_path / "local" / "out")
    assert len(kept["out.rejected"]) == 1
    assert first["manifest"].startswith(f"{base}/out.state/_all/manifest/")
    moves = call_json(capsys, "report", job)["moves"]
    assert moves["documents"] == moves["of"] == len(make_rows())
    state = open_store(f"{base}/out.state")
    assert state.exists(first["manifest"].removeprefix(f"{base}/out.state/"))
    holding = {n for n, data in read_all(state).items() if DOCUMENT_CANARY.encode() in data}
    assert {name.rpartition("/")[2].partition("-")[0] for name in holding} <= {"part", "rejected"}

    verified = call_json(capsys, "verify", job)
    assert (verified["problems"], verified["rows"]) == ([], 12)
    before = read_stats(url)
    second = call_json(capsys, "run", job)
    assert (second["requests"], second["generation"]) == (0, first["generation"])
    assert read_stats(url) == before
    assert kept == {root: read_all(open_store(f"{base}/{root}")) for root in kept}
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == [
        "candidates.parquet",
        "job.yaml",
    ]


@pytest.mark.slow
def test_an_earlier_generation_in_a_bucket_comes_back(
    tmp_path: Path, capsys: Capture, url: str, base: str
) -> None:
    """Gone back to, its bytes are the bucket's table again, whole and for nothing; and forth."""
    rows = make_rows(queries=5)
    blank = {**rows[0], "query_id": "blank", "query": " "}
    changes: dict[str, Any] = {"endpoint": {"url": url}, "shards": {"rows_per_shard": 5}}
    job = set_up(tmp_path, {**changes, "output": {"path": f"{base}/out"}}, [*rows[:12], blank])
    roots = [open_store(f"{base}/{name}") for name in ("out", "out.rejected")]
    tables = []
    for generation in (1, 2):
        assert call_json(capsys, "run", job)["generation"] == generation
        tables.append([read_all(root) for root in roots])
        write_table(tmp_path / "candidates.parquet", rows)
    one, two = tables
    assert one[0] != two[0]
    assert (len(one[1]), len(two[1])) == (1, 0)

    before = read_stats(url)
    kept = call(capsys, "paths", job, "--generation", "1").out.splitlines()
    assert all(path.startswith(f"{base}/out.state/") for path in kept)
    assert sorted(open_store(base).read(path.removeprefix(f"{base}/")) for path in kept) == sorted(
        one[0].values()
    )
    back = call_json(capsys, "publish", job, "--generation", "1")
    assert (back["generation"], back["restores"], back["changed"]) == (3, 1, True)
    assert [read_all(root) for root in roots] == one
    verified = call_json(capsys, "verify", job)
    assert (verified["problems"], verified["rows"]) == ([], 12)
    again = call_json(capsys, "run", job)
    assert (again["requests"], again["generation"], again["withdrawn"]) == (0, 3, True)
    call_json(capsys, "publish", job, "--generation", "2")
    assert [read_all(root) for root in roots] == two
    assert call_json(capsys, "verify", job)["problems"] == []
    assert read_stats(url) == before


@pytest.mark.slow
@pytest.mark.parametrize("far", ["state", "output"])
def test_state_and_output_may_be_of_different_kinds(
    tmp_path: Path, capsys: Capture, url: str, bucket: str, far: str
) -> None:
    """One in a bucket, the other in a folder: published bytes are those of two folders."""
    changes: dict[str, Any] = {"endpoint": {"url": url}, "state": {"path": "state"}}
    near = set_up(tmp_path / "near", changes)
    changes[far] = {"path": f"{bucket}/{far}"}
    mixed = set_up(tmp_path / "mixed", changes)
    call_json(capsys, "run", near)
    call_json(capsys, "run", mixed)
    assert call_json(capsys, "verify", mixed)["problems"] == []
    wanted = read_parts(tmp_path / "near" / "out")
    if far == "output":
        assert read_all(open_store(f"{bucket}/output")) == wanted
    else:
        assert read_parts(tmp_path / "mixed" / "out") == wanted


@pytest.mark.slow
def test_a_damaged_part_in_a_bucket_is_named_by_its_place(
    tmp_path: Path, capsys: Capture, url: str, bucket: str
) -> None:
    """``verify`` names what differs as bucket and object, not as a copy on this machine."""
    job = set_up(tmp_path, {"endpoint": {"url": url}, "output": {"path": f"{bucket}/out"}})
    call_json(capsys, "run", job)
    output = open_store(f"{bucket}/out")
    (part,) = output.entries()
    output.put(part.name, output.read(part.name)[:-9])
    outcome = call(capsys, "verify", job)
    assert outcome.code == 4
    assert f"{bucket}/out/{part.name}: its bytes differ" in outcome.out


def test_a_job_that_cannot_write_its_bucket_stops_before_it_pays(
    tmp_path: Path, capsys: Capture, url: str, s3: S3Server, bucket: str
) -> None:
    """A bucket that is missing or refuses is one line, and nothing was sent."""
    before = read_stats(url)
    lost = set_up(tmp_path, {"endpoint": {"url": url}, "output": {"path": "s3://not-there/out"}})
    call(capsys, "run", lost).assert_says(2, "s3://not-there/out.state", "create it")
    job = write_job(tmp_path, {"endpoint": {"url": url}, "output": {"path": f"{bucket}/out"}})
    s3.inject("403")
    call(capsys, "run", job).assert_says(3, f"{bucket}/out.state", "access denied")
    assert read_stats(url) == before


def find(capsys: Capture, job: Path, name: str) -> dict[str, Any]:
    """Return one finding of ``doctor``."""
    outcome = call(capsys, "doctor", job, "--json")
    findings = {finding["name"]: finding for finding in outcome.json()["findings"]}
    assert outcome.code == (0 if all(finding["well"] for finding in findings.values()) else 2)
    return dict(findings[name])


def test_doctor_tries_a_bucket_and_leaves_nothing(
    tmp_path: Path, capsys: Capture, base: str
) -> None:
    """It creates twice for real, says that the server honours it, and removes what it wrote."""
    job = set_up(tmp_path, {"output": {"path": f"{base}/out"}})
    for name, location in (("output", f"{base}/out"), ("state", f"{base}/out.state")):
        finding = find(capsys, job, name)
        assert finding["well"]
        assert finding["seen"].startswith(f"{location} can be written; the server honours")
    assert open_store(base).entries() == []


def test_doctor_finds_a_server_that_ignores_the_condition(
    tmp_path: Path, capsys: Capture, s3: S3Server, bucket: str
) -> None:
    """A server that lets a second create win is refused: two runs could both take a shard."""
    job = set_up(tmp_path, {"output": {"path": f"{bucket}/out"}})
    s3.inject(*["ignore_condition"] * 2, path="/out/.doctor")
    finding = find(capsys, job, "output")
    assert not finding["well"]
    assert "ignores If-None-Match" in finding["seen"]
    assert open_store(bucket).entries() == []


@pytest.mark.slow
def test_a_killed_run_goes_on_in_its_bucket(
    tmp_path: Path, capsys: Capture, s3: S3Server, bucket: str
) -> None:
    """After SIGKILL only what no segment holds is sent, and the bytes are an undisturbed run's."""
    rows = make_rows(queries=60, candidates=20)
    write_table(tmp_path / "candidates.parquet", rows)
    with serve("--scorer", "instant", "--latency-ms", "50") as address:
        changes: dict[str, Any] = {
            "endpoint": {"url": address, "max_concurrency": 2, "requests_per_minute": 60_000},
            "ledger": {"max_unsaved_replies": 3},
            "shards": {"rows_per_shard": 600},
        }
        job = write_job(tmp_path, {**changes, "output": {"path": f"{bucket}/out"}})
        state = open_store(f"{bucket}/out.state")
        command = [sys.executable, "-m", "rerank_jobs", "run", str(job), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
            end = time.monotonic() + 60
            while sum("/seg/" in entry.name for entry in state.entries()) < 6:
                assert run.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            os.kill(run.pid, signal.SIGKILL)
        again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        result = json.loads(again.stdout)
        assert 60 - result["requests"] >= 6
        stats = read_stats(address)
        # In flight and unsealed at the kill: 2 requests, and 3 replies with the 2 that wait.
        assert stats["requests"] <= 60 + 2 + 3 + 2
        calm = write_job(tmp_path, {**changes, "output": {"path": "calm"}})
        call_json(capsys, "run", calm)
    assert read_all(open_store(f"{bucket}/out")) == read_parts(tmp_path / "calm")
    assert s3.count_left() == 0
