"""One limit for several processes, on the real clock, through Redis, against strict servers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.redis_server import find_port
from tests.unit.cli.kit import CANARIES, call, read_stats, run_server, serve, set_up

LIMIT, WINDOW = 100, 6.0
KINDS = ("sliding", "counting")
LITTLE = 60
"""Requests that the process with little work has; the others have work without end."""

KILLED_AFTER, WINDOWS = 4, 12
TIMEOUT = 5.0
"""Seconds for a request: a killed process's credits come back a window, this and 2 s after them."""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Serve two strict limits of 100 requests per 6 s; replies take 20 to 120 ms."""
    faults = tmp_path / "latency.yaml"
    faults.write_text("seed: 5\nlatency: {low: 0.02, high: 0.12}\n")
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--port", "0", "--scorer", "instant"]
    command += ["--requests-per-minute", "1000", "--window-seconds", "6", "--faults", str(faults)]
    with ExitStack() as stack:
        yield {
            kind: stack.enter_context(run_server([*command, "--window-kind", kind]))
            for kind in KINDS
        }


@pytest.mark.slow
@pytest.mark.alone
def test_processes_share_a_limit_and_a_killed_ones_part_comes_back(
    servers: dict[str, str], redis_port: int
) -> None:
    """Three processes of unequal work, one killed midway, one new: 0 x 429, 97 % of the limit used.

    The share is of what credits can reach, limit x W / (W + latency), from the second window on;
    of the killed process nothing is known but what the server counted. On a sliding window, and on
    one that counts refused requests too, at once.
    """
    with ExitStack() as stack:

        def start(kind: str, seconds: float, **more: Any) -> subprocess.Popen[str]:
            wanted = {"url": servers[kind], "limit": LIMIT, "window": WINDOW, "seconds": seconds}
            wanted |= {"redis": f"redis://127.0.0.1:{redis_port}", "patience": TIMEOUT, **more}
            command = [sys.executable, "-m", "tests.e2e.paced_process", json.dumps(wanted)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(process.kill)  # where all goes well it has ended by itself
            return stack.enter_context(process)

        run_scenario(servers, start)


def run_scenario(servers: dict[str, str], start: Start) -> None:
    whole = WINDOW * (WINDOWS + 2)
    steady = {kind: start(kind, whole) for kind in KINDS}
    little = {kind: start(kind, whole, requests=LITTLE) for kind in KINDS}
    doomed = {kind: start(kind, whole) for kind in KINDS}
    while min(count_accepted(servers).values()) == 0:
        time.sleep(0.05)
    time.sleep(WINDOW)
    began, before = time.monotonic(), count_accepted(servers)
    time.sleep(WINDOW * KILLED_AFTER)
    for process in doomed.values():
        process.kill()
    rest = WINDOW * (WINDOWS - KILLED_AFTER)
    new = {kind: start(kind, rest) for kind in KINDS}
    time.sleep(rest - 1)
    windows, after = (time.monotonic() - began) / WINDOW, count_accepted(servers)
    for kind, url in servers.items():
        running = (steady[kind], little[kind], new[kind])
        told = [json.loads(process.communicate(timeout=60)[0]) for process in running]
        latency = told[0]["latency"]
        accepted = (after[kind] - before[kind]) / windows
        share = accepted / (LIMIT * WINDOW / (WINDOW + latency))
        refused = read_stats(url)["refused"]
        print(f"{kind}: {accepted:.2f} a window, {share:.4f} of what can be had, {refused} refused")
        print(f"  replies {[one['replies'] for one in told]}, cpu {[one['cpu'] for one in told]}")
        assert [one["throttled"] for one in told] == [0, 0, 0], kind
        assert refused == 0, kind
        assert told[1]["replies"] == LITTLE, kind
        assert min(told[0]["replies"], told[2]["replies"]) > LIMIT, kind
        assert share >= 0.97, kind


def count_accepted(servers: dict[str, str]) -> dict[str, int]:
    return {kind: int(read_stats(url)["requests"]) for kind, url in servers.items()}


def test_a_job_shares_its_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], redis_port: int
) -> None:
    """A run with ``limit_store`` books its sends there, and leaves no text and no key."""
    redis = pytest.importorskip("redis")
    with serve("--scorer", "instant") as url:
        endpoint = {
            "url": url,
            "limit_store": f"redis://127.0.0.1:{redis_port}/5",
            "limit_name": "shop",
            "requests_per_minute": 6000,
        }
        job = set_up(tmp_path, {"endpoint": endpoint})
        assert call(capsys, "run", job).code == 0
        assert "the limit's name there is rerank-jobs:limit:{shop:60}" in (
            call(capsys, "doctor", job).out
        )
    with redis.Redis(port=redis_port, db=5) as client:
        name = "rerank-jobs:limit:{shop:60}"
        credits_left = client.zrange(f"{name}:credits", 0, -1)
        everything = [*client.keys("*"), *credits_left, client.hgetall(f"{name}:state")]
    assert len(credits_left) == 3  # a credit for each of the three requests, until a window is over
    assert all(canary not in str(everything) for canary in CANARIES)


def test_a_job_without_its_store_sends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run stops, resumable, and names the key of the job file."""
    pytest.importorskip("redis")
    with serve("--scorer", "instant") as url:
        store = f"redis://127.0.0.1:{find_port()}"
        endpoint = {"url": url, "limit_store": store, "patience_seconds": 0}
        job = set_up(tmp_path, {"endpoint": endpoint})
        call(capsys, "run", job).assert_says(3, "endpoint.limit_store gave no answer")
        doctor = call(capsys, "doctor", job)
        assert "FAIL  limit store: endpoint.limit_store: 127.0.0.1:" in doctor.out
        assert read_stats(url)["requests"] == 0
