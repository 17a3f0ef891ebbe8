"""OpenRouter's ``POST /rerank``: request and reply bodies. Pure.

The request holds only documented fields and leaves ``top_n`` out, so that every document comes
back. The contract is https://openrouter.ai/docs (operation createRerank).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.model import Usage
from rerank_jobs.score.dialects.refusals import read_refusal
from rerank_jobs.score.exchange import Answer, Dialect, Malformed, Reading, Refusal, Reply

__all__ = ["OPENROUTER"]

_MAX_NAME = 200
_MAX_COUNT = 2**31


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; documents stand in the order of ``texts``."""
    return orjson.dumps({"model": model, "query": query, "documents": texts, **fields})


def decode(answer: Answer, n: int, now: float) -> Reading:
    """Return what the answer to a request of ``n`` texts says; never raises.

    Results are joined by index alone and echoed documents are dropped. A success that holds an
    error is that error; every other deviation from the contract is ``Malformed``.
    """
    if not 200 <= answer.status < 300:
        return read_refusal(answer, now)
    try:
        return _read_success(answer, n, now)
    except _DeviationError as deviation:
        return Malformed(str(deviation))


class _DeviationError(Exception):
    """A success that breaks the contract; its text is one of ours."""


def _read_success(answer: Answer, n: int, now: float) -> Reply | Refusal:
    try:
        data = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise _DeviationError("body is not JSON") from None
    if not isinstance(data, dict):
        raise _DeviationError("body is not a JSON object")
    if data.get("error") is not None:
        return read_refusal(answer, now)
    if "results" not in data:
        raise _DeviationError("neither results nor error")
    model = _read_name(data.get("model"))
    if model is None:
        raise _DeviationError("model is missing")
    return Reply(
        scores=_read_scores(data["results"], n),
        usage=_read_usage(data.get("usage")),
        response_id=_read_name(data.get("id")),
        model=model,
        provider=_read_name(data.get("provider")),
    )


def _read_scores(results: object, n: int) -> tuple[float, ...]:
    if not isinstance(results, list):
        raise _DeviationError("results is not a list")
    if len(results) != n:
        raise _DeviationError("wrong number of results")
    scores: list[float | None] = [None] * n
    for result in results:
        if type(result) is not dict:
            raise _DeviationError("a result is not an object")
        index, score = result.get("index"), result.get("relevance_score")
        # type() and not isinstance: true is neither an index nor a score.
        if type(index) is not int or not 0 <= index < n:
            raise _DeviationError("an index is out of range")
        if scores[index] is not None:
            raise _DeviationError("an index is repeated")
        if type(score) is int:
            score = float(score)
        if type(score) is not float or not math.isfinite(score):
            raise _DeviationError("a score is not a finite number")
        scores[index] = score
    # n results with n different indexes below n: none is left open.
    return tuple(scores)  # type: ignore[arg-type]


def _read_usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        search_units=_read_count(usage.get("search_units")),
        total_tokens=_read_count(usage.get("total_tokens")),
        cost_usd=_read_amount(usage.get("cost")),
    )


def _read_count(value: object) -> int | None:
    # A count may come as 1.0.
    amount = _read_amount(value)
    if amount is None or amount >= _MAX_COUNT or amount != int(amount):
        return None
    return int(amount)


def _read_amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _read_name(value: object) -> str | None:
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME:
        return value
    return None


def _is_listwise(_model: str) -> bool:
    return False


OPENROUTER = Dialect(
    name="openrouter",
    path="/rerank",
    encode=encode,
    decode=decode,
    max_passages=1000,
    score_kind="probability",
    listwise=_is_listwise,
    headers=(("Content-Type", "application/json"), ("Accept", "application/json")),
    routes=True,
)
