"""Read successes of every dialect by one strict reader; where each value stands is data. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from rerank_jobs.model import Usage
from rerank_jobs.score.dialects.refusals import read_refusal
from rerank_jobs.score.exchange import Answer, Malformed, Reading, Refusal, Reply

__all__ = ["Shape", "is_listwise", "read_answer"]

Path = tuple[str, ...]
"""Keys from the top of a reply inwards; empty: the dialect has no such value."""

_MAX_NAME = 200
_MAX_COUNT = 2**31


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a dialect's replies keep what.

    ``results`` names the list of results, ``None`` where the body itself is the list.
    ``score`` names the score in a result. ``search_units``, ``total_tokens`` and ``cost_usd`` lead
    to what a reply says that it cost; ``tokens_header`` names a header (lower case) that counts
    tokens. ``names_model``: a reply without a model's name is broken.
    """

    results: str | None = "results"
    score: str = "relevance_score"
    search_units: Path = ()
    total_tokens: Path = ()
    cost_usd: Path = ()
    tokens_header: str = ""
    names_model: bool = False


def read_answer(shape: Shape, answer: Answer, n: int, now: float) -> Reading:
    """Return what the answer to a request of ``n`` texts says; never raises.

    Results are joined by index alone and echoed documents are dropped. A success that holds an
    error is that error; every other deviation from the contract is ``Malformed``. ``now``: seconds
    since the epoch.
    """
    if not 200 <= answer.status < 300:
        return read_refusal(answer, now, n)
    try:
        data = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return Malformed("body is not JSON")
    try:
        return _read_success(shape, answer, data, n, now)
    except _DeviationError as deviation:
        return Malformed(str(deviation), _read_amount(_follow(data, shape.cost_usd)))


def is_listwise(model: str) -> bool:
    """Return whether the model's score of a text depends on the other texts of its request.

    jina-reranker-v3 does (arXiv 2509.25085), whoever serves it; all others known score pairwise.
    """
    return "jina-reranker-v3" in model.lower()


class _DeviationError(Exception):
    """A success that breaks the contract; its text is one of ours."""


def _read_success(
    shape: Shape, answer: Answer, data: object, n: int, now: float
) -> Reply | Refusal:
    if isinstance(data, dict) and data.get("error") is not None:
        return read_refusal(answer, now, n)
    model = _read_name(_follow(data, ("model",)))
    results = _find_results(shape, data)
    if shape.names_model and model is None:
        raise _DeviationError("model is missing")
    return Reply(
        scores=_read_scores(results, shape.score, n),
        usage=_read_usage(shape, data, answer.headers),
        response_id=_read_name(_follow(data, ("id",))),
        model=model,
        provider=_read_name(_follow(data, ("provider",))),
    )


def _find_results(shape: Shape, data: object) -> object:
    if shape.results is None:
        return data
    if not isinstance(data, dict):
        raise _DeviationError("body is not a JSON object")
    if shape.results not in data:
        raise _DeviationError(f"neither {shape.results} nor error")
    return data[shape.results]


def _read_scores(results: object, name: str, n: int) -> tuple[float, ...]:
    if not isinstance(results, list):
        raise _DeviationError("results is not a list")
    if len(results) != n:
        raise _DeviationError("wrong number of results")
    scores: list[float | None] = [None] * n
    finite = math.isfinite
    for result in results:
        if type(result) is not dict:
            raise _DeviationError("a result is not an object")
        index, score = result.get("index"), result.get(name)
        # type() and not isinstance: true is neither an index nor a score.
        if type(index) is not int or not 0 <= index < n:
            raise _DeviationError("an index is out of range")
        if scores[index] is not None:
            raise _DeviationError("an index is repeated")
        if type(score) is not float:
            score = _read_whole(score)
        if not finite(score):
            raise _DeviationError("a score is not a finite number")
        scores[index] = score
    # n results with n different indexes below n: none is left open.
    return tuple(scores)  # type: ignore[arg-type]


def _read_whole(score: object) -> float:
    """Return a score that came without a point; NaN for what is no number."""
    return float(score) if type(score) is int else math.nan


def _read_usage(shape: Shape, data: object, headers: Mapping[str, str]) -> Usage:
    tokens = _read_count(_follow(data, shape.total_tokens))
    if shape.tokens_header:
        tokens = _read_digits(headers.get(shape.tokens_header, ""))
    return Usage(
        search_units=_read_count(_follow(data, shape.search_units)),
        total_tokens=tokens,
        cost_usd=_read_amount(_follow(data, shape.cost_usd)),
    )


def _follow(data: object, path: Path) -> Any:
    if not path:
        return None
    for key in path:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data


def _read_count(value: object) -> int | None:
    # A count may come as 1.0.
    amount = _read_amount(value)
    if amount is None or amount >= _MAX_COUNT or amount != int(amount):
        return None
    return int(amount)


def _read_digits(value: str) -> int | None:
    digits = value.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        return None
    return _read_count(int(digits))


def _read_amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _read_name(value: object) -> str | None:
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME:
        return value
    return None
