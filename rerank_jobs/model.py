"""The nouns that stages hand to each other: frozen values without behaviour of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CHUNKS_PER_UNIT",
    "Failed",
    "Outcome",
    "Passage",
    "Request",
    "ScoreTotals",
    "Scored",
    "Tally",
    "Usage",
]

Key = bytes
"""First 16 bytes of SHA-256(salt + UTF-8 text): names a text without holding it."""


CHUNKS_PER_UNIT = 100
"""Billing chunks in one search unit (Cohere's pricing: "a query with up to 100 documents")."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text as it is sent: a whole document or one window of it.

    ``chunks`` is its planned weight in billing chunks (100 make one search unit), ``tokens`` its
    estimated size with the query.
    """

    key: Key
    text: str
    chunks: int
    tokens: int

    def __repr__(self) -> str:
        """Name the passage without its text."""
        return f"Passage({self.key.hex()[:8]}, chunks={self.chunks})"


@dataclass(frozen=True, slots=True)
class Request:
    """One query with the passages of one call; ``number`` is unique within its shard's plan.

    ``script`` is the writing of its texts (``latin``, ``han``), for telling where estimates drift.
    """

    number: int
    query_key: Key
    query: str
    passages: tuple[Passage, ...]
    search_units: int
    script: str = ""

    @property
    def tokens(self) -> int:
        """Estimated tokens of all its (query, passage) pairs together."""
        return sum(passage.tokens for passage in self.passages)

    def __repr__(self) -> str:
        """Name the request without any text."""
        return f"Request({self.number}, {self.query_key.hex()[:8]}, {len(self.passages)} passages)"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply says that it cost; ``None`` where it says nothing."""

    search_units: int | None = None
    total_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A paid reply: ``scores[i]`` belongs to ``request.passages[i]``.

    ``cost_usd`` is the reply's own figure, else the estimate (then ``cost_estimated``).
    ``received_at`` is in seconds since the epoch (UTC), ``latency_seconds`` of the last attempt.
    ``parts``: as how many pieces its only passage was sent after the endpoint had refused it as too
    long (its score is that of the best piece), else 1.
    """

    request: Request
    scores: tuple[float, ...]
    usage: Usage
    cost_usd: float
    cost_estimated: bool
    response_id: str | None
    model: str
    provider: str | None
    attempts: int
    latency_seconds: float
    received_at: float
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Failed:
    """The endpoint refused these passages for good; ``code`` says why (``http_400`` and so on)."""

    request: Request
    code: str
    attempts: int
    received_at: float


Outcome = Scored | Failed


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts by name, in order of name; two of them add up."""

    counts: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Tally:
        """Return the counts of a mapping."""
        return cls(tuple(sorted(counts.items())))

    def __add__(self, other: Tally) -> Tally:
        """Add counts of the same name."""
        total = dict(self.counts)
        for name, count in other.counts:
            total[name] = total.get(name, 0) + count
        return Tally.of(total)

    def get(self, name: str) -> int:
        """Return a count, 0 for a name that has none."""
        return dict(self.counts).get(name, 0)


@dataclass(frozen=True, slots=True)
class ScoreTotals:
    """What one process sent, got and paid.

    ``requests`` counts sends (with retries), ``replies`` paid replies, ``throttled`` 429s, ``lost``
    timeouts and broken connections, ``malformed`` replies that could not be used, ``refused`` sends
    refused for their content, ``sends_allowed`` what the rate limit had room for in the time.
    ``wasted_usd`` was paid for replies that could not be used; ``unknown_usd`` is the planned cost
    of sends of which nobody knows whether they were charged. ``latencies`` counts replies by
    latency (``score.latency``), the units are those of replies by script, planned and reported.
    """

    requests: int = 0
    replies: int = 0
    passages_scored: int = 0
    passages_failed: int = 0
    search_units: int = 0
    planned_units: int = 0
    cost_usd: float = 0.0
    unknown_usd: float = 0.0
    wasted_usd: float = 0.0
    throttled: int = 0
    retries: int = 0
    lost: int = 0
    malformed: int = 0
    refused: int = 0
    seconds: float = 0.0
    sends_allowed: float = 0.0
    latencies: Tally = Tally()
    planned_by_script: Tally = Tally()
    reported_by_script: Tally = Tally()

    @property
    def utilisation(self) -> float | None:
        """Which share of what the rate limit allowed was accepted; ``None`` without a limit."""
        if not self.sends_allowed:
            return None
        return (self.requests - self.throttled) / self.sends_allowed

    def plus(self, other: ScoreTotals) -> ScoreTotals:
        """Add two totals field by field (seconds too: work, not wall time)."""
        return ScoreTotals(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


ScoreKind = Literal["probability", "logit"]
