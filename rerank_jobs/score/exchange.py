"""What passes between client, dialect and policy: values of one exchange with an endpoint.

No value shows a body, a header or a text in its ``repr``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rerank_jobs.model import ScoreKind, Usage

__all__ = ["Answer", "Dialect", "Lost", "Malformed", "Problem", "Reading", "Refusal", "Reply"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that was read to its end; ``headers`` are looked up in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    latency_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Lost:
    """A send without an answer; ``reached`` is false only where the endpoint surely saw nothing."""

    reason: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """A valid reply: ``scores[i]`` is finite and belongs to the i-th text that was sent."""

    scores: tuple[float, ...]
    usage: Usage
    response_id: str | None
    model: str
    provider: str | None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A success by its status that is not a valid reply; ``reason`` is one of our own words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the endpoint describes it, cut down to words of closed vocabularies.

    ``wait_seconds`` is the largest sane hint, from now. ``retryable`` is the endpoint's own word.
    ``billable``: it came where a reply should stand, or from an edge that gave up waiting, so
    that the search may have been charged. ``model_unknown`` and ``moderated`` are told from
    the error where no code names them.
    """

    status: int
    error_type: str | None = None
    limit_source: str | None = None
    reason: str | None = None
    availability: str | None = None
    retryable: bool | None = None
    wait_seconds: float | None = None
    model_unknown: bool = False
    moderated: bool = False
    billable: bool = False


Reading = Reply | Refusal | Malformed
Problem = Refusal | Malformed | Lost


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format as a value: pure functions and the limits that go with them.

    ``encode(model, query, texts)`` gives a request body. ``decode(answer, n, now)`` reads any
    answer to a request of ``n`` texts (``now``: seconds since the epoch), never raises. ``path`` is
    appended to the endpoint's URL. ``pairwise``: a score depends on its own (query, text) alone.
    """

    name: str
    path: str
    encode: Callable[[str, str, Sequence[str]], bytes]
    decode: Callable[[Answer, int, float], Reading]
    max_passages: int
    score_kind: ScoreKind
    pairwise: bool
    headers: tuple[tuple[str, str], ...] = ()
