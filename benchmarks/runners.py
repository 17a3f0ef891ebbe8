"""Five ways to the same scores, each measured in a process of its own.

Run as ``python -m benchmarks.runners NAME URL REQUESTS``: it prints one JSON object. Every way
builds its request bodies from prepared texts and ends with the scores by index, inside the part
that is timed; a tenth of the requests go before it, untimed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from benchmarks.load import (
    DOCUMENTS,
    IN_FLIGHT,
    MODEL,
    Call,
    Stopwatch,
    make_calls,
    repeat_calls,
)

__all__ = ["NAMES"]

Scores = list[tuple[int, float]]
Rerank = Callable[[Call], Awaitable[Scores]]

DISTINCT_CALLS = 256
LAG_SECONDS = 0.005


@asynccontextmanager
async def _open_aiohttp(url: str) -> AsyncIterator[Rerank]:
    import aiohttp

    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        target = f"{url}/api/v1/rerank"

        async def rerank(call: Call) -> Scores:
            body = {"model": MODEL, "query": call.query, "documents": call.documents}
            async with session.post(target, data=orjson.dumps(body)) as response:
                reply = orjson.loads(await response.read())
            return [(item["index"], item["relevance_score"]) for item in reply["results"]]

        yield rerank


@asynccontextmanager
async def _open_httpx(url: str) -> AsyncIterator[Rerank]:
    import httpx
    from httpx_aiohttp import AiohttpTransport

    headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
    transport = AiohttpTransport(limits=httpx.Limits(max_connections=IN_FLIGHT))
    async with httpx.AsyncClient(transport=transport, headers=headers) as client:
        target = f"{url}/api/v1/rerank"

        async def rerank(call: Call) -> Scores:
            body = {"model": MODEL, "query": call.query, "documents": call.documents}
            response = await client.post(target, content=orjson.dumps(body))
            reply = orjson.loads(response.content)
            return [(item["index"], item["relevance_score"]) for item in reply["results"]]

        yield rerank


@asynccontextmanager
async def _open_cohere(url: str) -> AsyncIterator[Rerank]:
    from cohere import AsyncClientV2

    async with AsyncClientV2(api_key="key", base_url=url) as client:

        async def rerank(call: Call) -> Scores:
            reply = await client.rerank(
                model="rerank-v3.5", query=call.query, documents=call.documents
            )
            return [(item.index, item.relevance_score) for item in reply.results]

        yield rerank


@asynccontextmanager
async def _open_openrouter(url: str) -> AsyncIterator[Rerank]:
    from openrouter import OpenRouter

    async with OpenRouter(api_key="key", server_url=f"{url}/api/v1") as client:

        async def rerank(call: Call) -> Scores:
            reply = await client.rerank.rerank_async(
                model=MODEL, query=call.query, documents=call.documents
            )
            return [(item.index, item.relevance_score) for item in reply.results]

        yield rerank


async def _measure_pool(
    connect: Callable[[str], AbstractAsyncContextManager[Rerank]], url: str, requests: int
) -> dict[str, Any]:
    """Measure a client under a fixed pool of workers."""
    calls = make_calls(DISTINCT_CALLS)
    async with connect(url) as rerank:

        async def work(left: Iterator[Call]) -> None:
            for call in left:
                assert len(await rerank(call)) == DOCUMENTS

        async def run(number: int) -> None:
            left = repeat_calls(calls, number)
            async with asyncio.TaskGroup() as group:
                for _ in range(IN_FLIGHT):
                    group.create_task(work(left))

        await run(requests // 10)
        async with _measure() as figures:
            await run(requests)
    return figures


async def _measure_engine(url: str, requests: int) -> dict[str, Any]:
    """Measure our engine as a shard composes it: validation and ledger on, pacing off."""
    from rerank_jobs.config import Endpoint, Ledger, Secret
    from rerank_jobs.ledger.sealing import SegmentWriter
    from rerank_jobs.model import Passage, Request
    from rerank_jobs.score import DIALECTS, ScoreSettings, open_client, score_requests
    from rerank_jobs.storage import LocalStore

    prepared = [
        Request(
            number,
            number.to_bytes(16, "big"),
            call.query,
            tuple(
                Passage((number << 16 | index).to_bytes(16, "big"), text, 1, 110)
                for index, text in enumerate(call.documents)
            ),
            1,
        )
        for number, call in enumerate(make_calls(DISTINCT_CALLS))
    ]
    endpoint = Endpoint(url=f"{url}/api/v1", max_concurrency=IN_FLIGHT)
    settings = replace(ScoreSettings.from_endpoint(endpoint, None), limit=None)
    client = open_client(endpoint, Secret("key"))
    numbers = count()

    def make_requests(number: int) -> Iterator[Request]:
        for position in range(number):
            yield replace(prepared[position % DISTINCT_CALLS], number=next(numbers))

    async def run(folder: str, number: int) -> int:
        ledger = SegmentWriter(LocalStore(folder), "bench", 1, "0" * 32, Ledger())
        async with ledger:
            result = await score_requests(
                make_requests(number),
                settings=settings,
                client=client,
                dialect=DIALECTS[endpoint.dialect],
                accept=ledger.accept,
            )
        assert (result.stop, ledger.sealed) == (None, number)
        return result.totals.passages_scored

    # Beside the repository: what is temporary may be memory, which syncs for free.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd().parent) as folder:
        await run(f"{folder}/warm", requests // 10)
        async with _measure() as figures:
            scored = await run(f"{folder}/timed", requests)
        await client.aclose()
    assert scored == requests * DOCUMENTS
    return figures


@asynccontextmanager
async def _measure() -> AsyncIterator[dict[str, Any]]:
    """Yield a mapping that holds wall and CPU seconds and the loop's lags after the block."""
    figures: dict[str, Any] = {"lags": []}
    sampler = asyncio.create_task(_sample_lag(figures["lags"]))
    with Stopwatch() as watch:
        yield figures
    sampler.cancel()
    figures.update(wall=watch.wall, cpu=watch.cpu)


async def _sample_lag(lags: list[float]) -> None:
    """Note how late each wake-up is, in seconds."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        lags.append(loop.time() - due)


_POOLS: dict[str, Callable[[str], AbstractAsyncContextManager[Rerank]]] = {
    "aiohttp": _open_aiohttp,
    "httpx": _open_httpx,
    "cohere": _open_cohere,
    "openrouter": _open_openrouter,
}
NAMES = (*_POOLS, "engine")


def _peak_megabytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def main() -> None:
    """Measure one client once."""
    name, url, requests = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if name == "engine":
        figures = asyncio.run(_measure_engine(url, requests))
    else:
        figures = asyncio.run(_measure_pool(_POOLS[name], url, requests))
    figures["peak_mb"] = _peak_megabytes()
    sys.stdout.buffer.write(orjson.dumps(figures))


if __name__ == "__main__":
    main()
