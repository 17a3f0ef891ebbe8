"""The installed command in a process of its own: exit codes and streams as a shell sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.unit.cli.kit import CANARIES, Outcome, make_rows, read_table, serve, set_up, write_job

COMMAND = Path(sys.executable).with_name("rerank-jobs")


def run(folder: Path, *arguments: str, **environment: str) -> Outcome:
    """Run the installed command as a user in ``folder`` would."""
    done = subprocess.run(
        [str(COMMAND), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    for canary in CANARIES:
        assert canary not in done.stdout + done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not COMMAND.exists():
        pytest.skip("the command is not installed beside this Python")


def test_a_job_from_first_price_to_proof(tmp_path: Path) -> None:
    """plan, run, run again and verify in a fresh folder: exit 0, nothing on standard error."""
    set_up(tmp_path)
    for command in ("plan", "run", "verify"):
        outcome = run(tmp_path, command, "job.yaml")
        assert (outcome.code, outcome.err) == (0, ""), command
    assert len(read_table(tmp_path / "out")) == 12
    assert json.loads(run(tmp_path, "run", "job.yaml", "--json").out)["requests"] == 0


def test_bad_jobs_and_tables_in_a_shell(tmp_path: Path) -> None:
    """A missing job, a bad table and a missing key end in one line each, with codes 2, 2 and 3."""
    run(tmp_path, "run", "no.yaml").assert_says(2, "no.yaml")
    set_up(tmp_path, rows=[{**row, "query": 1} for row in make_rows()])
    run(tmp_path, "run", "job.yaml").assert_says(2, "column 'query'")
    set_up(tmp_path, {"endpoint": {"url": "https://rerank.invalid/api/v1"}})
    run(tmp_path, "run", "job.yaml").assert_says(3, "OPENROUTER_API_KEY")
    assert run(tmp_path).code == 2


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """A reader that goes away early, such as head, leaves no traceback."""
    set_up(tmp_path)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{COMMAND} plan job.yaml --json | true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_an_interrupted_run_is_sealed_and_goes_on(tmp_path: Path) -> None:
    """SIGINT ends a run with code 130 and one line; the next run does not pay again."""
    with serve("--scorer", "instant", "--latency-ms", "100") as url:
        endpoint = {"url": url, "max_concurrency": 1}
        set_up(tmp_path, {"endpoint": endpoint}, make_rows(20, 2))
        process = subprocess.Popen(
            [str(COMMAND), "run", "job.yaml"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stats = url.replace("/api/v1", "/stats")
        deadline = time.monotonic() + 60
        while httpx.get(stats).json()["requests"] < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        Outcome(process.returncode, out, err).assert_says(130, "run again")
        assert not (tmp_path / "out").exists()
        write_job(tmp_path, {"endpoint": {"url": url}})
        assert run(tmp_path, "run", "job.yaml").code == 0
        assert httpx.get(stats).json()["pairs_repeated"] == 0
    assert len(read_table(tmp_path / "out")) == 40


def test_serve_answers_and_ends_at_a_signal(tmp_path: Path) -> None:
    """``serve`` answers a rerank request with the embedded scorer and ends cleanly at SIGTERM."""
    process = subprocess.Popen(
        [str(COMMAND), "serve", "--port", "0", "--usd-per-search", "0.5"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        body = {"model": "any", "query": "red fox", "documents": ["a red fox", "blue sky"]}
        reply = httpx.post(f"{url}/rerank", json=body).json()
        assert [result["index"] for result in reply["results"]] == [0, 1]
        assert reply["usage"]["cost"] == 0.5
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
