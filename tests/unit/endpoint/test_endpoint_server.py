"""A real server on loopback: its address, a real client, a clean end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from rerank_jobs.cli.main import main
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.server import serve
from rerank_jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SERVE = (
    "from rerank_jobs.endpoint.instant import InstantScorer\n"
    "from rerank_jobs.endpoint.server import serve\n"
    "serve(port=0, scorer={scorer}, api_key='sk-test')\n"
)


@contextmanager
def _run_server(scorer: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE.format(scorer=scorer)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        yield line.removeprefix("listening on ").strip(), process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(number: signal.Signals) -> None:
    """On SIGINT and SIGTERM the server ends with code 0 and without a word."""
    with _run_server("InstantScorer()") as (url, process):
        httpx.get(url.replace("/api/v1", "/healthz")).raise_for_status()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.filterwarnings("ignore:.*DEPRECATED:DeprecationWarning")
def test_the_openrouter_client_accepts_the_replies() -> None:
    """OpenRouter's own SDK, pointed at the server, reads the ranking, the usage and the key."""
    openrouter = pytest.importorskip("openrouter")
    documents = ["a garden hose", "a speaker for the usb port"]
    with (
        _run_server("None") as (url, _process),
        openrouter.OpenRouter(api_key="sk-test", server_url=url) as client,
    ):
        reply = client.rerank.rerank(
            model="cohere/rerank-v3.5", query="usb speaker", documents=documents
        )
        key = client.api_keys.get_current_key_metadata()
    assert [result.index for result in reply.results] == [1, 0]
    assert [result.document.text for result in reply.results] == documents[::-1]
    assert reply.model.startswith("embedded/")
    assert (reply.usage.search_units, reply.usage.cost) == (1, 0.001)
    assert key.data.usage == 0.001


def test_a_taken_port_is_a_job_error() -> None:
    """A port in use is told in one line that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(JobError, match=f"127.0.0.1:{port}"):
            serve(port=port, scorer=InstantScorer())


def test_the_command_line_sets_limits_and_credit() -> None:
    """``serve`` passes limit, kind of window and credit on; 429 and 402 come as they say."""
    options = "--requests-per-minute 4 --tokens-per-minute 9000 --window-seconds 30"
    with _run_command(*options.split(), "--window-kind", "fixed", "--credit-usd", "0.001") as url:
        body = {"model": "m", "query": "q", "documents": ["d"]}
        replies = [httpx.post(f"{url}/rerank", json=body) for _ in range(5)]
        key = httpx.get(f"{url}/key").json()["data"]
    statuses = [reply.status_code for reply in replies]
    assert statuses[:2] == [200, 402]
    assert 429 in statuses  # two a window; a boundary may fall among the five
    limited = replies[statuses.index(429)]
    assert limited.headers["x-ratelimit-limit"] == "2"
    assert "2 requests and 4500 tokens per 30 seconds" in limited.json()["error"]["message"]
    assert (key["limit"], key["limit_remaining"]) == (0.001, 0)


def test_mistakes_in_faults_end_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of faults with a mistake is one line on standard error and exit code 2."""
    path = tmp_path / "faults.yaml"
    path.write_text("rules: [{kind: 500_servr}]", encoding="utf-8")
    assert main(["serve", "--scorer", "instant", "--faults", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path}: rules.0.kind: " in error
    assert "did you mean 500_server?" in error


@contextmanager
def _run_command(*options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--scorer", "instant", "--port", "0"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("listening on ").strip()
    finally:
        process.terminate()
        process.communicate(timeout=20)
