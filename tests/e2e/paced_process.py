"""One process that sends as its pace allows, for tests: prints what it sent as one JSON object.

Arguments: endpoint URL, requests a window, window in seconds, seconds to go on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from rerank_jobs.config import Endpoint
from rerank_jobs.model import Outcome, Scored
from rerank_jobs.score import DIALECTS, ScoreSettings, open_client, score_requests
from rerank_jobs.score.policy import Target
from tests.unit.score.fakes import make_requests


async def send_paced(url: str, limit: int, window: float, seconds: float) -> dict[str, Any]:
    """Score requests through a real connection for so long; return counts and mean latency."""
    latencies: list[float] = []

    async def take(outcome: Outcome) -> None:
        assert isinstance(outcome, Scored)
        latencies.append(outcome.latency_seconds)

    endpoint = Endpoint(url=url, max_concurrency=32)
    client = open_client(endpoint, None)
    settings = ScoreSettings(
        target=Target(url, endpoint.model, endpoint.key_place),
        limit=limit,
        window_seconds=window,
        max_seconds=seconds,
    )
    result = await score_requests(
        make_requests(10**6),
        settings=settings,
        client=client,
        dialect=DIALECTS["openrouter"],
        accept=take,
    )
    await client.aclose()
    return {
        "throttled": result.totals.throttled,
        "replies": result.totals.replies,
        "latency": sum(latencies) / len(latencies),
        "stop": type(result.stop).__name__,
    }


if __name__ == "__main__":
    url, limit, window, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(send_paced(url, int(limit), float(window), float(seconds)))))
