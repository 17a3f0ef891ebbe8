"""From an answer of any dialect to the decision that a run takes."""

from __future__ import annotations

from typing import Any

import orjson

from rerank_jobs.errors import RerankJobsError
from rerank_jobs.score import DIALECTS
from rerank_jobs.score.exchange import Answer, Malformed, Refusal
from rerank_jobs.score.policy import Decision, Stop, Target, decide

Expected = Decision | type[RerankJobsError]
"""A decision, or the error that a run stops with."""

NOW = 1_790_000_000.0
TEXTS = 8
TARGET = Target("https://api.test/v1", "some/model", "KEY")


def judge(dialect: str, status: int, body: Any, headers: dict[str, str] | None = None) -> Decision:
    """Read an answer as the dialect does, and decide as a run does."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    value = DIALECTS[dialect]
    reading = value.decode(Answer(status, headers or {}, raw), TEXTS, NOW)
    assert isinstance(reading, Refusal | Malformed)
    return decide(reading, TARGET, longest_wait=600, now=NOW, by_status=value.by_status)


def check(decision: Decision, expected: Expected) -> None:
    if isinstance(expected, type):
        assert isinstance(decision, Stop)
        assert type(decision.error) is expected
    else:
        assert decision == expected
