"""What the scoring of one shard must know of the job."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rerank_jobs.config import Endpoint
from rerank_jobs.score.dialects.fields import body_fields, ranks_listwise
from rerank_jobs.score.policy import Target

__all__ = ["ScoreSettings"]


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """Pace, patience, price and allowance of one run; times in seconds, money in dollars.

    ``limit`` and ``token_limit``: sends and tokens per ``window_seconds``, ``None`` for no limit.
    ``patience_seconds``: how long nothing may succeed before the run stops. ``grace_seconds``:
    what sends in flight get after an interruption; after any other stop they get
    ``timeout_seconds``. ``max_seconds``: how long sends may leave. ``splits``: whether a refused
    request may be split (not for a listwise model). ``fields``: more fields of each request body.
    """

    target: Target
    limit: int | None = None
    token_limit: int | None = None
    window_seconds: float = 60.0
    max_concurrency: int = 32
    timeout_seconds: float = 90.0
    patience_seconds: float = 600.0
    grace_seconds: float = 4.0  # Airflow sends SIGKILL five seconds after SIGTERM
    price_usd: float = 0.0
    token_price_usd: float = 0.0
    max_seconds: float | None = None
    splits: bool = True
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    allowance_usd: float | None = None

    @classmethod
    def from_endpoint(
        cls, endpoint: Endpoint, allowance_usd: float | None, max_seconds: float | None = None
    ) -> ScoreSettings:
        """Return the settings for a job's endpoint and a shard's allowance.

        Raises:
            JobError: see ``body_fields``.

        """
        return cls(
            target=Target(endpoint.url, endpoint.model, endpoint.key_place),
            limit=_scale(endpoint.pace, endpoint.limit_window_seconds),
            token_limit=_scale(endpoint.token_pace, endpoint.limit_window_seconds),
            window_seconds=endpoint.limit_window_seconds,
            max_concurrency=endpoint.max_concurrency,
            timeout_seconds=endpoint.timeout_seconds,
            patience_seconds=endpoint.patience_seconds,
            price_usd=endpoint.price_usd,
            token_price_usd=endpoint.token_price_usd,
            splits=not ranks_listwise(endpoint),
            fields=body_fields(endpoint),
            allowance_usd=allowance_usd,
            max_seconds=max_seconds,
        )


def _scale(per_minute: int | None, window_seconds: float) -> int | None:
    """Return how many of a minute fit into a window."""
    return None if per_minute is None else math.floor(per_minute * window_seconds / 60)
