"""``serve``: the embedded endpoint on a port."""

from __future__ import annotations

import argparse

__all__ = ["serve"]


def serve(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from rerank_jobs.endpoint import server
    from rerank_jobs.endpoint.instant import InstantScorer

    server.serve(
        arguments.host,
        arguments.port,
        scorer=InstantScorer() if arguments.scorer == "instant" else None,
        requests_per_minute=arguments.requests_per_minute,
        latency_seconds=arguments.latency_ms / 1000,
        price_per_search_usd=arguments.usd_per_search,
    )
    return 0
