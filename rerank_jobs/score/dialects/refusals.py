"""Read error answers of every shape seen: JSON of several generations, plain text, HTML. Pure.

An error body may echo the request. What is kept of it is numbers and words of the closed
vocabularies below, never free text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from rerank_jobs.score.dialects.complaints import Complaint, read_complaint
from rerank_jobs.score.exchange import Answer, Refusal

__all__ = ["read_refusal"]

LONGEST_WAIT_SECONDS = 86_400.0
"""A hint beyond a day is not believed (except the instant at which a budget resets)."""

LONGEST_RESET_SECONDS = 32 * 86_400.0

_MAX_TEXT = 1000

STATUS_OF_TYPE: Mapping[str, int] = {
    # OpenRouter
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "timeout": 504,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unprocessable": 422,
    "rate_limit_exceeded": 429,
    "server": 500,
    "unmapped": 500,
    "provider_unavailable": 502,
    "provider_overloaded": 503,
    "context_length_exceeded": 400,
    "max_tokens_exceeded": 400,
    "token_limit_exceeded": 400,
    "string_too_long": 400,
    "invalid_request": 400,
    "invalid_prompt": 400,
    "content_policy_violation": 400,
    "refusal": 400,
    # servers in OpenAI's manner
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "model_not_found": 404,
    # Text Embeddings Inference
    "Unhealthy": 503,
    "Backend": 424,
    "Overloaded": 429,
    "Validation": 422,
    "Tokenizer": 422,
    "Empty": 400,
    # AWS
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "InternalServerException": 500,
    "ModelErrorException": 424,
    "ModelNotReadyException": 429,
    "ModelTimeoutException": 408,
    "ResourceNotFoundException": 404,
    "ServiceQuotaExceededException": 400,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "UnrecognizedClientException": 403,
    "ValidationException": 400,
}
"""Words that name an error's type, with the status that each stands for."""

SIZE_TYPES = frozenset(
    {
        "context_length_exceeded",
        "max_tokens_exceeded",
        "payload_too_large",
        "string_too_long",
        "token_limit_exceeded",
    }
)

LIMIT_SOURCES = frozenset(
    {
        "upstream_provider_shared_pool",
        "openrouter_shared_capacity",
        "openrouter_admission_control",
        "openrouter_free_tier_daily",
        "openrouter_in_flight_budget",
        "openrouter_credits",
        "openrouter_key_limit",
        "openrouter_guardrail_budget",
        "openrouter_workspace_budget",
    }
)
REASONS = frozenset({"in_flight_budget_exhausted", "weight_exceeds_budget"})
AVAILABILITY = frozenset(
    {
        "model_not_found",
        "wrong_endpoint",
        "no_endpoints",
        "model_deprecated",
        "model_unavailable_upstream",
        "privacy_restricted",
        "constraint_filtered",
        "free_variant_ended",
        "region_restricted",
        "capacity_exhausted",
        "temporarily_unavailable",
    }
)

# Statuses whose search may have been carried out, and charged, behind the edge that gave up.
_BILLABLE = frozenset({504, 524})

# Statuses that can be about what a request holds.
_ABOUT_CONTENT = frozenset({400, 404, 413, 422})


def read_refusal(answer: Answer, now: float, n: int) -> Refusal:
    """Return the error that ``answer`` to ``n`` texts describes; never raises.

    The body's own code goes before the HTTP status. A success that holds an error without a known
    code has status 500: retryable. ``now``: seconds since the epoch.
    """
    whole = _parse(answer.body)
    inner = whole.get("error")
    error = inner if isinstance(inner, dict) else whole
    metadata = _mapping(error.get("metadata"))
    availability = _mapping(error.get("availability"))
    error_type = _find_type(answer.headers, error, whole)
    retryable = availability.get("retryable")
    succeeded = answer.status < 300
    status = _status(error, error_type, 500 if succeeded else answer.status)
    complaint = read_complaint(error, whole) if status in _ABOUT_CONTENT else Complaint()
    index = complaint.index
    return Refusal(
        status=status,
        error_type=error_type,
        limit_source=_word(metadata.get("limit_source"), LIMIT_SOURCES),
        reason=_word(metadata.get("reason"), REASONS),
        availability=_word(availability.get("code"), AVAILABILITY),
        retryable=retryable if isinstance(retryable, bool) else None,
        wait_seconds=max(_hints(answer.headers, availability, metadata, now), default=None),
        model_unknown=complaint.model_unknown,
        parameter_refused=complaint.parameter_refused,
        moderated=bool(metadata.get("flagged_input")) or bool(metadata.get("reasons")),
        billable=succeeded or status in _BILLABLE or answer.status in _BILLABLE,
        too_long=status == 413 or error_type in SIZE_TYPES or complaint.too_long,
        index=index if index is not None and 0 <= index < n else None,
    )


def _parse(body: bytes) -> Mapping[str, Any]:
    """Return the body as a JSON object; a bare text stands as its message."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:_MAX_TEXT].decode(errors="replace").strip()
        return {} if text.startswith("<") else {"message": text}
    return data if isinstance(data, dict) else {"message": data}


def _find_type(
    headers: Mapping[str, str], error: Mapping[str, Any], whole: Mapping[str, Any]
) -> str | None:
    metadata = _mapping(error.get("metadata"))
    places = (
        error.get("error_type"),
        metadata.get("error_type"),
        error.get("code"),
        error.get("type"),
        whole.get("error_type"),
        whole.get("__type"),
        headers.get("x-amzn-errortype"),
    )
    for place in places:
        if isinstance(place, str):
            # AWS writes namespace#Name and Name:http://...
            word = place[:_MAX_TEXT].rpartition("#")[2].partition(":")[0]
            if word in STATUS_OF_TYPE:
                return word
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(value: object, known: frozenset[str]) -> str | None:
    return value if isinstance(value, str) and value in known else None


def _status(error: Mapping[str, Any], error_type: str | None, otherwise: int) -> int:
    for key in ("code", "http_status"):
        value = _number(error.get(key))
        if value is not None and 400 <= value < 600 and value == int(value):
            return int(value)
    if otherwise == 500 and error_type is not None:
        return STATUS_OF_TYPE[error_type]
    return otherwise


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _hints(
    headers: Mapping[str, str],
    availability: Mapping[str, Any],
    metadata: Mapping[str, Any],
    now: float,
) -> Iterator[float]:
    """Yield the sane ones of all waits that the answer names, in seconds from ``now``."""
    inner = {str(key).lower(): value for key, value in _mapping(metadata.get("headers")).items()}
    waits = [
        _milliseconds(headers.get("retry-after-ms")),
        _retry_after(headers.get("retry-after"), now),
        _number(availability.get("retry_after")),
        _number(metadata.get("retry_after_seconds")),
        _number(metadata.get("retry_after_seconds_raw")),
        _retry_after(inner.get("retry-after"), now),
        _until(headers.get("x-ratelimit-reset"), now),
        _until(inner.get("x-ratelimit-reset"), now),
    ]
    yield from (wait for wait in waits if wait is not None and 0 <= wait <= LONGEST_WAIT_SECONDS)
    reset = _until(metadata.get("resets_at"), now)
    if reset is not None and 0 <= reset <= LONGEST_RESET_SECONDS:
        yield reset


def _retry_after(value: object, now: float) -> float | None:
    number = _number(value)
    return number if number is not None else _until_date(value, now)


def _milliseconds(value: object) -> float | None:
    number = _number(value)
    return None if number is None else number / 1000


def _until(value: object, now: float) -> float | None:
    """Return the seconds until an instant: Unix milliseconds, Unix seconds or a date."""
    number = _number(value)
    if number is None:
        return _until_date(value, now)
    return (number / 1000 if number > 1e11 else number) - now


def _until_date(value: object, now: float) -> float | None:
    if not isinstance(value, str):
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(value)
        except ValueError:
            continue
        if date.tzinfo is not None:
            return date.timestamp() - now
    return None
