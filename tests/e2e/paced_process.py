"""One process that sends as its pace allows, for tests: prints what it sent as one JSON object.

Its one argument is a JSON object of the parameters of ``send_paced``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
from typing import Any

from rerank_jobs.config import Endpoint
from rerank_jobs.model import Outcome, Scored
from rerank_jobs.score import (
    DIALECTS,
    RedisLimitStore,
    ScoreSettings,
    open_client,
    read_access,
    read_shared_limit,
    score_requests,
)
from tests.unit.score.fakes import make_requests


async def send_paced(
    url: str,
    limit: int,
    window: float,
    seconds: float,
    requests: int = 10**6,
    patience: float = 90,
    redis: str | None = None,
) -> dict[str, Any]:
    """Score requests through a real connection for so long; return counts and mean latency.

    With ``redis``, the address of a limit store, the limit is all processes' together.
    """
    latencies: list[float] = []

    async def take(outcome: Outcome) -> None:
        assert isinstance(outcome, Scored)
        latencies.append(outcome.latency_seconds)

    endpoint = Endpoint(
        url=url,
        requests_per_minute=round(limit * 60 / window),
        limit_window_seconds=window,
        limit_store=redis,
        timeout_seconds=patience,
    )
    client = open_client(endpoint, None)
    settings = ScoreSettings.from_endpoint(endpoint, None, seconds)
    shared = read_shared_limit(endpoint, settings, None, read_access(endpoint))
    store = None if shared is None else RedisLimitStore(shared)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.aclose)
        if store is not None:
            stack.push_async_callback(store.aclose)
        result = await score_requests(
            make_requests(requests),
            settings=settings,
            client=client,
            dialect=DIALECTS["openrouter"],
            accept=take,
            limit_store=store,
        )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "throttled": result.totals.throttled,
        "replies": result.totals.replies,
        "latency": sum(latencies) / max(1, len(latencies)),
        "stop": type(result.stop).__name__,
        "cpu": usage.ru_utime + usage.ru_stime,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(send_paced(**json.loads(sys.argv[1])))))
