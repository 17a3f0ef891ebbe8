"""The real scale of pacing: 1,000 requests per 60 s against a strict server, for 180 s.

``rerank-jobs serve`` in a process of its own counts a sliding window and answers after 120 ms. Our
engine runs with its real client. Credits return one window after each response, so the most that
can be accepted is limit x T / W x W / (W + latency): the figures after the first window are
compared with that.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import orjson

from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.model import Outcome, Passage, Request, Scored
from rerank_jobs.score import DIALECTS, ScoreResult, ScoreSettings, open_client, score_requests

LIMIT = 1000
WINDOW_SECONDS = 60.0
LATENCY_MS = 120


def main() -> None:
    """Run for the given time and print what was accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="more than a window")
    seconds = parser.parse_args().seconds
    with _serve() as url:
        result, accepted = asyncio.run(_score(url, seconds))
        refused = _read_stats(url)["refused"]
    show(seconds, result, accepted, refused)


@contextmanager
def _serve() -> Iterator[str]:
    """Serve with the limit and the latency on a free port; yield the endpoint's address."""
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--port", "0", "--scorer", "instant"]
    command += ["--requests-per-minute", str(LIMIT), "--latency-ms", str(LATENCY_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().rsplit(" ", 1)[1].strip()
        finally:
            process.terminate()


async def _score(url: str, seconds: float) -> tuple[ScoreResult, list[float]]:
    """Return the result and when each reply was accepted, in seconds since the start."""
    endpoint = Endpoint(url=url, requests_per_minute=LIMIT)
    client = open_client(endpoint, Secret("key"))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    started = loop.time()
    accepted: list[float] = []

    async def accept(outcome: Outcome) -> None:
        assert isinstance(outcome, Scored)
        accepted.append(loop.time() - started)

    loop.call_at(started + seconds, stop.set)
    try:
        result = await score_requests(
            map(_make_request, count()),
            settings=ScoreSettings.from_endpoint(endpoint, None),
            client=client,
            dialect=DIALECTS[endpoint.dialect],
            accept=accept,
            stop=stop,
        )
    finally:
        await client.aclose()
    return result, accepted


def _make_request(number: int) -> Request:
    passages = tuple(
        Passage(index.to_bytes(16, "big"), f"document {index} of {number}", 1, 12)
        for index in range(5)
    )
    return Request(number, number.to_bytes(16, "big"), f"query {number}", passages, 1)


def _read_stats(url: str) -> dict[str, Any]:
    address = f"{url.removesuffix('/api/v1')}/stats"
    with urllib.request.urlopen(address, timeout=10) as reply:  # noqa: S310 - our own server
        stats: dict[str, Any] = orjson.loads(reply.read())
    return stats


def show(seconds: float, result: ScoreResult, accepted: list[float], refused: int) -> None:
    """Print the figures after the first window."""
    latency = LATENCY_MS / 1000
    steady = sum(WINDOW_SECONDS <= instant < seconds for instant in accepted)
    span = seconds - WINDOW_SECONDS
    limit = LIMIT * span / WINDOW_SECONDS
    most = limit * WINDOW_SECONDS / (WINDOW_SECONDS + latency)
    totals = result.totals
    print(f"{LIMIT:,} requests per {WINDOW_SECONDS:g} s, {LATENCY_MS} ms, {seconds:g} s")
    print(f"  429s: {totals.throttled} seen, {refused} by the server; sends {totals.requests:,}")
    print(f"  accepted in the first window: {len([t for t in accepted if t < WINDOW_SECONDS]):,}")
    print(f"  accepted in the {span:g} s after it: {steady:,}")
    print(f"    of the limit               {limit:8,.0f}: {steady / limit:8.2%}")
    print(f"    of limit x W/(W + latency) {most:8,.0f}: {steady / most:8.2%}")


if __name__ == "__main__":
    main()
