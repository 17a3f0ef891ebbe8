"""Pacing on the real clock, over real connections, against servers in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.cli.kit import read_stats, run_server

LIMIT, WINDOW, WINDOWS = 100, 6.0, 21
SENDERS = {"sliding": [100], "counting": [100], "fixed": [100], "shared": [50, 50]}
"""Servers, and the requests a window of each process that sends to it."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Serve four strict limits of 100 requests per 6 s; replies take 20 to 120 ms."""
    faults = tmp_path / "latency.yaml"
    faults.write_text("seed: 5\nlatency: {low: 0.02, high: 0.12}\n")
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--port", "0", "--scorer", "instant"]
    command += ["--requests-per-minute", "1000", "--window-seconds", "6", "--faults", str(faults)]
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                run_server([*command, "--window-kind", "sliding" if name == "shared" else name])
            )
            for name in SENDERS
        }


def count_accepted(servers: dict[str, str]) -> dict[str, int]:
    return {name: int(read_stats(url)["requests"]) for name, url in servers.items()}


@pytest.mark.slow
@pytest.mark.alone
def test_no_server_refuses_and_its_limit_is_used(servers: dict[str, str]) -> None:
    """20 windows after the first: 0 x 429, and 99.5 % of what the latency leaves of the limit.

    On a sliding window, one that counts refused requests too, a fixed one, and a sliding one that
    two processes share by halves; all at once.
    """
    module = [sys.executable, "-m", "tests.e2e.paced_process"]
    seconds = WINDOW * WINDOWS + 2
    with ExitStack() as stack:

        def start(url: str, limit: int) -> subprocess.Popen[str]:
            wanted = {"url": url, "limit": limit, "window": WINDOW, "seconds": seconds}
            command = [*module, json.dumps(wanted)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(process.terminate)  # where all goes well it has ended by itself
            return stack.enter_context(process)

        processes = {
            name: [start(servers[name], limit) for limit in limits]
            for name, limits in SENDERS.items()
        }
        check_pacing(servers, processes)


def check_pacing(
    servers: dict[str, str], processes: dict[str, list[subprocess.Popen[str]]]
) -> None:
    while min(count_accepted(servers).values()) == 0:
        time.sleep(0.05)
    time.sleep(WINDOW)
    began, before = time.monotonic(), count_accepted(servers)
    time.sleep(WINDOW * (WINDOWS - 1))
    windows, after = (time.monotonic() - began) / WINDOW, count_accepted(servers)
    for name, running in processes.items():
        told = [json.loads(process.communicate(timeout=60)[0]) for process in running]
        latency = sum(one["latency"] for one in told) / len(told)
        accepted = (after[name] - before[name]) / windows
        share = accepted / (LIMIT * WINDOW / (WINDOW + latency))
        print(f"{name}: {accepted:.2f} a window, {share:.4f} of what can be had")
        assert [one["throttled"] for one in told] == [0] * len(told), name
        assert read_stats(servers[name])["refused"] == 0, name
        assert share >= 0.995, name
