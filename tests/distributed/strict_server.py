"""A rerank endpoint behind a key: ``--strict`` keeps 100 requests per 6 s and has latencies.

Without it nothing waits and nothing is refused but a wrong key. The key is in ``GUARD_KEY``.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from rerank_jobs.endpoint.faults import Faults, Latency
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.limits import RateLimit
from rerank_jobs.endpoint.server import serve
from tests.distributed.scenario import LATENCY, LIMIT, WINDOW


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--strict", action="store_true")
    arguments = parser.parse_args()
    options: dict[str, Any] = {}
    if arguments.strict:
        low, high = LATENCY
        options["limit"] = RateLimit(requests=LIMIT, window_seconds=WINDOW, kind="sliding")
        options["faults"] = Faults(seed=5, latency=Latency(low=low, high=high))
    scorer, key = InstantScorer(), os.environ["GUARD_KEY"]
    serve(port=arguments.port, scorer=scorer, api_key=key, **options)


if __name__ == "__main__":
    main()
