"""What an answer of each rerank API must be taken for, written from the contracts alone.

Nothing here is shared with the decoder: the stdlib's JSON, plain loops, and the table below, which
says for each API where a reply keeps its list, score, counts and cost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

Verdict = tuple[Any, ...]
"""("scored", scores, units, tokens, cost, id, model, provider), ("refused", status) or
("broken", cost)."""

CONTRACTS: dict[str, dict[str, Any]] = {
    "openrouter": {
        "list": "results",
        "score": "relevance_score",
        "units": ["usage", "search_units"],
        "tokens": ["usage", "total_tokens"],
        "cost": ["usage", "cost"],
        "needs model": True,
    },
    "cohere": {
        "list": "results",
        "score": "relevance_score",
        "units": ["meta", "billed_units", "search_units"],
        "tokens": ["meta", "billed_units", "total_tokens"],
    },
    "jina": {"list": "results", "score": "relevance_score", "tokens": ["usage", "total_tokens"]},
    "voyage": {"list": "data", "score": "relevance_score", "tokens": ["usage", "total_tokens"]},
    "vllm": {"list": "results", "score": "relevance_score", "tokens": ["usage", "total_tokens"]},
    "tei": {"list": None, "score": "score", "tokens header": "x-compute-tokens"},
    "infinity": {
        "list": "results",
        "score": "relevance_score",
        "tokens": ["usage", "total_tokens"],
    },
    "nim": {"list": "rankings", "score": "logit", "tokens": ["usage", "total_tokens"]},
    "bedrock": {"list": "results", "score": "relevance_score"},
}

STATUS_WORDS = {
    "rate_limit_exceeded": 429,
    "authentication": 401,
    "payment_required": 402,
    "provider_overloaded": 503,
}
"""Error types that the mutations use, with the status that OpenRouter's reference gives them."""


def expect(name: str, status: int, headers: Mapping[str, str], body: bytes, n: int) -> Verdict:
    """Return the verdict on an answer of API ``name`` to a request of ``n`` texts."""
    contract = CONTRACTS[name]
    try:
        data = parse(body)
    except (ValueError, RecursionError):
        return ("broken", None) if 200 <= status <= 299 else ("refused", status)
    if not 200 <= status <= 299:
        return ("refused", error_status(data, status))
    if isinstance(data, dict) and data.get("error") is not None:
        return ("refused", error_status(data, 500))
    cost = amount(lead(data, contract.get("cost")))
    scores = read_list(contract, data, n)
    model = name_in(data, "model")
    if scores is None or (contract.get("needs model") and model is None):
        return ("broken", cost)
    tokens = count(lead(data, contract.get("tokens")))
    if "tokens header" in contract:
        tokens = header_count(headers.get(contract["tokens header"]))
    units = count(lead(data, contract.get("units")))
    return (
        "scored",
        scores,
        units,
        tokens,
        cost,
        name_in(data, "id"),
        model,
        name_in(data, "provider"),
    )


def parse(body: bytes) -> Any:
    """Parse JSON as RFC 8259 and a double have it; ValueError for everything else."""
    text = body.decode("utf-8")

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError("beyond a double")
        return value

    def integer(digits: str) -> int:
        number(digits)
        return int(digits)

    def constant(word: str) -> float:
        raise ValueError(word)

    data = json.loads(text, parse_float=number, parse_int=integer, parse_constant=constant)
    json.dumps(data, ensure_ascii=False).encode("utf-8")  # a lone surrogate has no UTF-8
    return data


def read_list(contract: dict[str, Any], data: Any, n: int) -> list[float] | None:
    """Return the scores in order of the texts, None if the list is not as it must be."""
    results = data
    if contract["list"] is not None:
        results = data.get(contract["list"]) if isinstance(data, dict) else None
    if not isinstance(results, list):
        return None
    pairs: list[tuple[Any, ...]] = []
    for result in results:
        pair = (result.get("index"), result.get(contract["score"])) if is_object(result) else ()
        pairs.append(pair)
    if not all(len(pair) == 2 and is_whole(pair[0]) and is_number(pair[1]) for pair in pairs):
        return None
    if sorted(index for index, _ in pairs) != list(range(n)):
        return None
    return [float(score) for _, score in sorted(pairs)]


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, float) or is_whole(value)


def error_status(data: Any, status: int) -> int:
    """Return the status of an error: its own code, else HTTP's, else what its type stands for."""
    error: Any = data.get("error") if isinstance(data, dict) else None
    if not isinstance(error, dict):
        return status
    for key in ("code", "http_status"):
        code: Any = error.get(key)
        if isinstance(code, str) and code.isdigit():
            code = int(code)
        if is_number(code) and 400 <= code <= 599 and code == int(code):
            return int(code)
    if status == 500 and isinstance(error.get("error_type"), str):
        return STATUS_WORDS.get(error["error_type"], 500)
    return status


def lead(data: Any, path: list[str] | None) -> Any:
    for key in path or ["?"]:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data if path else None


def amount(value: Any) -> float | None:
    return float(value) if is_number(value) and value >= 0 else None


def count(value: Any) -> int | None:
    sound = is_number(value) and 0 <= value <= 2**31 - 1 and value % 1 == 0
    return int(value) if sound else None


def header_count(value: str | None) -> int | None:
    if not value or any(digit not in "0123456789" for digit in value):
        return None
    return count(int(value))


def name_in(data: Any, key: str) -> str | None:
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
        return None
    return value
