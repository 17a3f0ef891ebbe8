"""What passes between client, dialect and policy: values of one exchange with an endpoint.

No value shows a body, a header or a text in its ``repr``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rerank_jobs.model import ScoreKind, Usage

__all__ = [
    "Action",
    "Answer",
    "Dialect",
    "Lost",
    "Malformed",
    "Problem",
    "Reading",
    "Refusal",
    "Reply",
]


class Action(enum.Enum):
    """What can be done about a refusal."""

    RETRY = "again, with backoff"
    OVERLOAD = "again; a named wait is everyone's"
    THROTTLE = "everyone waits, then again"
    FAIL = "this request's content is refused"
    KEY = "stop: the key is refused"
    CREDIT = "stop: credit or a spending limit is used up"
    QUOTA = "stop: a quota resets later"
    JOB = "stop: the job asks for something that does not exist"


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
    """A valid reply: ``scores[i]`` is finite and belongs to the i-th text that was sent.

    ``model`` is ``None`` where it names none: the requested one then stands for it.
    """

    scores: tuple[float, ...]
    usage: Usage
    response_id: str | None
    model: str | None
    provider: str | None


@dataclass(frozen=True, slots=True)
class Malformed:
    """A success by its status that is not a valid reply; ``reason`` is one of our own words.

    ``cost_usd`` is what it says that it cost, ``None`` where it says nothing that can be read.
    """

    reason: str
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the endpoint describes it, cut down to words of closed vocabularies.

    ``wait_seconds`` is the largest sane hint, from now. ``retryable`` is the endpoint's own word.
    ``billable``: it came where a reply should stand, or from an edge that gave up waiting, so
    that the search may have been charged. ``model_unknown`` and ``moderated`` are told from
    the error where no code names them. ``parameter_refused``: it is about a field that every
    request of the job has. ``too_long``: it is about the size of the content.
    ``index``: the 0-based document that the error names, ``None`` where it names none.
    """

    status: int
    error_type: str | None = None
    limit_source: str | None = None
    reason: str | None = None
    availability: str | None = None
    retryable: bool | None = None
    wait_seconds: float | None = None
    model_unknown: bool = False
    parameter_refused: bool = False
    moderated: bool = False
    billable: bool = False
    too_long: bool = False
    index: int | None = None


Reading = Reply | Refusal | Malformed
Problem = Refusal | Malformed | Lost


JSON_HEADERS = (("Content-Type", "application/json"), ("Accept", "application/json"))


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format as a value: pure functions and the limits that go with them.

    ``encode(model, query, texts, fields)`` gives a request body; ``fields`` are more top-level
    fields, ready to be sent. ``decode(answer, n, now)`` reads any answer to a request of ``n``
    texts (``now``: seconds since the epoch), never raises. ``path`` is appended to the endpoint's
    URL; ``{model}`` in it stands for the model. ``by_status`` is what it means by a status
    otherwise than most. ``options``: names that ``endpoint.options`` may hold. ``routes``: whether
    it takes OpenRouter's ``provider``, ``user``, ``session_id`` and ``trace``. ``listwise(model)``:
    whether a score depends on the other texts of its request.
    """

    name: str
    path: str
    encode: Callable[[str, str, Sequence[str], Mapping[str, Any]], bytes]
    decode: Callable[[Answer, int, float], Reading]
    max_passages: int
    score_kind: ScoreKind
    listwise: Callable[[str], bool]
    headers: tuple[tuple[str, str], ...] = JSON_HEADERS
    by_status: Mapping[int, Action] = field(default_factory=dict)
    options: frozenset[str] = frozenset()
    routes: bool = False
