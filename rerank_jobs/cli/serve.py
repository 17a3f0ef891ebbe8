"""``serve``: the embedded endpoint on a port."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rerank_jobs.endpoint.limits import RateLimit

__all__ = ["serve"]


def serve(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from rerank_jobs.endpoint import server
    from rerank_jobs.endpoint.faults import load_faults
    from rerank_jobs.endpoint.instant import InstantScorer

    server.serve(
        arguments.host,
        arguments.port,
        scorer=InstantScorer() if arguments.scorer == "instant" else None,
        limit=_read_limit(arguments),
        latency_seconds=arguments.latency_ms / 1000,
        price_per_search_usd=arguments.usd_per_search,
        credit_usd=arguments.credit_usd,
        faults=None if arguments.faults is None else load_faults(arguments.faults),
    )
    return 0


def _read_limit(arguments: argparse.Namespace) -> RateLimit | None:
    from rerank_jobs.endpoint.limits import RateLimit

    requests, tokens = arguments.requests_per_minute, arguments.tokens_per_minute
    if requests is None and tokens is None:
        return None
    return RateLimit.per_minute(
        requests, tokens, window_seconds=arguments.window_seconds, kind=arguments.window_kind
    )
