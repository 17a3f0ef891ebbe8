"""Faults below HTTP, over a real socket: what the kernel tells a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.faults import Faults, Rule
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.kinds import KINDS
from rerank_jobs.endpoint.stats import digest_pair
from tests.unit.endpoint.conftest import RERANK
from tests.unit.score.simulation import simulate

TEXT = "x" * 2000
BROKEN = {name: kind for name, kind in KINDS.items() if kind.breakage is not None}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve, by the command line, one rule a kind: the query names the fault that it wants."""
    path = tmp_path_factory.mktemp("faults") / "faults.json"
    rules = [{"kind": name, "query_contains": f"<{name}>", "seconds": 0.2} for name in BROKEN]
    path.write_text(json.dumps({"rules": rules}), encoding="utf-8")
    with serve("--faults", path) as url:
        yield url


@contextlib.contextmanager
def serve(*options: str | Path) -> Iterator[str]:
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--scorer", "instant", "--port", "0"]
    process = subprocess.Popen(
        [*command, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.communicate()
        yield line.removeprefix("listening on ").strip().removesuffix("/api/v1")
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert errors == ""  # the server does not complain about what it was asked to do


def converse(url: str, query: str) -> tuple[bytes, str, list[float]]:
    """Send one request on a socket; return the bytes, how it ended, and when bytes came."""
    body = json.dumps({"model": "m", "query": query, "documents": [TEXT]}).encode()
    place = urlsplit(url)
    assert place.hostname
    assert place.port
    request = (
        f"POST {RERANK} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    received, instants = b"", list[float]()
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(request + body)
        while True:
            try:
                piece = connection.recv(65_536)
            except ConnectionResetError:
                return received, "reset", instants
            if not piece:
                return received, "closed", instants
            received += piece
            instants.append(time.monotonic())


def split(received: bytes) -> tuple[int, bytes]:
    """Return the announced length of a body and what came of it."""
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    ]
    return lengths[0], body


def billed(url: str, query: str) -> int:
    """Return how often the server has billed the pair of this query."""
    pairs: dict[str, int] = httpx.get(f"{url}/bill").json()["pairs"]
    return pairs.get(digest_pair(query, TEXT).hex(), 0)


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("reset_before_billing", 0),
        ("reset_after_billing", 1),
        ("no_answer", 0),
        ("no_answer_after_billing", 1),
    ],
)
def test_a_reset_comes_instead_of_an_answer(server: str, kind: str, times: int) -> None:
    """The client meets ECONNRESET without one byte; the search is billed or not, as named."""
    started = time.monotonic()
    received, end, _ = converse(server, f"<{kind}>")
    assert (received, end) == (b"", "reset")
    assert time.monotonic() - started >= 0.2
    assert billed(server, f"<{kind}>") == times


def test_a_reset_comes_in_the_middle_of_the_body(server: str) -> None:
    """Half an answer that was billed, then ECONNRESET."""
    received, end, _ = converse(server, "<reset_mid_body>")
    assert end == "reset"
    assert len(received) < len(converse(server, "whole")[0])
    assert billed(server, "<reset_mid_body>") == 1


def test_a_truncated_body_ends_before_its_length(server: str) -> None:
    """The connection closes in good order after half of what Content-Length announced."""
    received, end, _ = converse(server, "<body_truncated>")
    announced, body = split(received)
    assert end == "closed"
    assert len(body) == announced // 2
    assert billed(server, "<body_truncated>") == 1
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        httpx.post(
            server + RERANK,
            json={"model": "m", "query": "<body_truncated>", "documents": [TEXT]},
        )


def test_a_dribbled_body_comes_whole_in_pieces(server: str) -> None:
    """Piece by piece over the time asked for, and in the end a sound reply."""
    received, end, instants = converse(server, "<body_dribbled>")
    announced, body = split(received)
    assert end == "closed"
    assert len(body) == announced
    assert json.loads(body)["results"][0]["index"] == 0
    assert len(instants) > 5
    assert instants[-1] - instants[0] >= 0.15


def test_a_late_answer_is_whole(server: str) -> None:
    """Nothing is wrong but the time that it takes."""
    started = time.monotonic()
    received, end, _ = converse(server, "<late>")
    assert end == "closed"
    assert len(split(received)[1]) == split(received)[0]
    assert time.monotonic() - started >= 0.2


def test_the_server_goes_on_after_each_fault(server: str) -> None:
    """A fault ends its own connection and nothing else: the next request is answered."""
    for kind in BROKEN:
        converse(server, f"again <{kind}>")
        assert converse(server, "good")[0].startswith(b"HTTP/1.1 200 OK")
    faults = httpx.get(f"{server}/stats").json()["faults"]
    assert set(faults) == set(BROKEN)


def test_a_hang_ends_when_the_client_leaves(tmp_path: Path) -> None:
    """A server asked for silence ends with the client's patience, not with its own bound."""
    path = tmp_path / "faults.yaml"
    path.write_text("rules: [{kind: no_answer, seconds: 600}]", encoding="utf-8")
    with serve("--faults", path) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                url + RERANK,
                json={"model": "m", "query": "q", "documents": ["d"]},
                timeout=httpx.Timeout(5, read=0.3),
            )
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 4


@pytest.mark.parametrize("kind", ["reset_before_billing", "body_truncated", "no_answer"])
def test_without_a_connection_the_caller_meets_the_reset(kind: str) -> None:
    """In-process the app raises ConnectionResetError, after the time the fault takes."""

    async def send() -> float:
        loop = asyncio.get_running_loop()
        faults = Faults(rules=(Rule(kind=kind, seconds=300),))
        transport = httpx.ASGITransport(
            create_app(scorer=InstantScorer(), faults=faults, clock=loop.time)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            with pytest.raises(ConnectionResetError):
                await client.post(RERANK, json={"model": "m", "query": "q", "documents": ["d"]})
        return loop.time()

    assert simulate(send()) == pytest.approx(300, abs=0.01)
