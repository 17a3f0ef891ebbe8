"""Error answers of OpenRouter, of what stands before and behind it, ready to be sent. Pure.

``build_answer`` writes OpenRouter's own JSON; ``WHOLE`` holds the answers of another form:
Cloudflare's pages, upstream bodies and errors that name a document.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal

import orjson

from rerank_jobs.endpoint.error_shapes import SHAPES, ErrorShape
from rerank_jobs.endpoint.wire import RerankCall, WireAnswer, build_error

__all__ = ["ASSUMED_TOKENS", "WHOLE", "Hint", "Incident", "build_answer"]

ASSUMED_TOKENS = 5000
"""What a document is said to have where nobody counted: more than the context of 4,096."""

Hint = Literal[
    "header",
    "header_date",
    "header_reset",
    "availability",
    "metadata",
    "metadata_raw",
    "metadata_header",
    "metadata_reset",
]
"""Where a wait stands: ``Retry-After`` (seconds; or as a date), ``X-RateLimit-Reset`` (Unix ms);
``error.availability.retry_after``; ``error.metadata.retry_after_seconds`` and ``…_raw``;
``Retry-After`` and ``X-RateLimit-Reset`` in ``error.metadata.headers``."""


@dataclass(frozen=True, slots=True)
class Incident:
    """What an error answer may need to know of the request that gets it.

    ``index``: the document that is said to be at fault, of ``tokens`` tokens. ``wait_seconds``
    is named in each place of ``hints``. ``now``: seconds since the epoch.
    """

    now: float
    rng: random.Random = field(repr=False)
    call: RerankCall | None = None
    index: int = 0
    tokens: int = ASSUMED_TOKENS
    wait_seconds: float | None = None
    hints: Sequence[Hint] = ("header",)


def build_answer(shape: ErrorShape, incident: Incident) -> WireAnswer:
    """Return the answer of one shape, with the incident's wait or the shape's own, if any."""
    headers: dict[str, str] = {}
    metadata = dict(shape.metadata)
    availability = {}
    if shape.availability is None:
        error = build_error(shape.status, shape.message)["error"]
        if shape.error_type is not None:
            metadata["error_type"] = shape.error_type
    else:
        error = {
            "message": shape.message,
            "error_type": shape.error_type,
            "http_status": shape.status,
        }
        availability = {
            "code": shape.availability,
            "retryable": shape.retryable,
            "requested_models": ["cohere/rerank-v3.5"],
            "docs_url": "https://openrouter.ai/docs",
        }
    wait = shape.wait_seconds if incident.wait_seconds is None else incident.wait_seconds
    if wait is not None:
        for hint in incident.hints:
            _name_wait(hint, wait, incident.now, headers, availability, metadata)
    if availability:
        error["availability"] = availability
    if metadata:
        error["metadata"] = metadata
    return WireAnswer(shape.status, headers, orjson.dumps({"error": error, "user_id": "user_x"}))


def _name_wait(
    hint: Hint,
    wait: float,
    now: float,
    headers: dict[str, str],
    availability: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    seconds, reset = str(math.ceil(wait)), str(math.ceil((now + wait) * 1000))
    match hint:
        case "header":
            headers["Retry-After"] = seconds
        case "header_date":
            headers["Retry-After"] = formatdate(math.ceil(now + wait), usegmt=True)
        case "header_reset":
            headers["X-RateLimit-Reset"] = reset
        case "availability":
            availability["retry_after"] = math.ceil(wait)
        case "metadata":
            metadata["retry_after_seconds"] = math.ceil(wait)
        case "metadata_raw":
            metadata["retry_after_seconds_raw"] = wait
        case "metadata_header":
            metadata.setdefault("headers", {})["Retry-After"] = seconds
        case "metadata_reset":
            metadata.setdefault("headers", {})["X-RateLimit-Reset"] = reset


def _build_html(status: int, title: str) -> Callable[[Incident], WireAnswer]:
    def build(incident: Incident) -> WireAnswer:
        page = (
            "<!DOCTYPE html>\n<html><head><title>openrouter.ai | "
            f"{status}: {title}</title></head><body><h1>{title}</h1>"
            f"<p>Error code {status}</p><p>Cloudflare Ray ID: {incident.rng.getrandbits(64):016x}"
            "</p></body></html>\n"
        )
        headers = {**_retry_header(incident), "Server": "cloudflare"}
        return WireAnswer(status, headers, page.encode(), "text/html; charset=UTF-8")

    return build


def _build_1015(incident: Incident) -> WireAnswer:
    headers = {**_retry_header(incident), "Server": "cloudflare"}
    return WireAnswer(429, headers, b"error code: 1015", "text/plain; charset=UTF-8")


def _retry_header(incident: Incident) -> dict[str, str]:
    wait = incident.wait_seconds
    return {} if wait is None else {"Retry-After": str(math.ceil(wait))}


def _build_length(status: int, error_type: str, step: int) -> Callable[[Incident], WireAnswer]:
    """Return the builder of an error that names the document ``step`` after the guilty one."""

    def build(incident: Incident) -> WireAnswer:
        documents = 1 if incident.call is None else len(incident.call.documents)
        index = (incident.index + step) % documents
        message = f"document at index {index} is too long: {incident.tokens} tokens, at most 4096"
        return build_answer(ErrorShape(status, message, error_type), incident)

    return build


def _write_cohere(incident: Incident) -> dict[str, str]:
    message = f"too many tokens: document at index {incident.index} exceeds the maximum length"
    return {"id": f"{incident.rng.getrandbits(128):032x}", "message": message}


def _build_cohere(incident: Incident) -> WireAnswer:
    return WireAnswer(422, _retry_header(incident), orjson.dumps(_write_cohere(incident)))


def _build_nested(incident: Incident) -> WireAnswer:
    upstream = orjson.dumps(_write_cohere(incident)).decode()
    metadata = {"provider_name": "Cohere", "provider_code": 422, "raw": upstream}
    return build_answer(ErrorShape(422, upstream, "unprocessable", metadata=metadata), incident)


def _build_moderation(incident: Incident) -> WireAnswer:
    text = "" if incident.call is None else incident.call.documents[incident.index]
    metadata = {
        "reasons": ["violence"],
        "flagged_input": text[:100],
        "provider_name": "Cohere",
        "model_slug": "cohere/rerank-v3.5",
    }
    message = "Your input was flagged"
    return build_answer(ErrorShape(403, message, None, metadata=metadata), incident)


def _build_inside_success(shape: ErrorShape) -> Callable[[Incident], WireAnswer]:
    def build(incident: Incident) -> WireAnswer:
        inner = build_answer(shape, incident)
        return WireAnswer(200, inner.headers, inner.body)

    return build


def _build_untyped(_incident: Incident) -> WireAnswer:
    return WireAnswer(200, {}, orjson.dumps({"error": {"message": "Provider returned error"}}))


def _build_text_error(_incident: Incident) -> WireAnswer:
    return WireAnswer(200, {}, orjson.dumps({"error": "error code: 1015"}))


def _build_neither(_incident: Incident) -> WireAnswer:
    return WireAnswer(200, {}, orjson.dumps({"id": "gen-rerank-x", "model": "embedded/none"}))


WHOLE: Mapping[str, Callable[[Incident], WireAnswer]] = {
    "200_error": _build_inside_success(SHAPES["502_provider_unavailable"]),
    "200_error_rate_limit": _build_inside_success(SHAPES["429_rate_limit_exceeded"]),
    "200_error_text": _build_text_error,
    "200_error_without_code": _build_untyped,
    "200_neither": _build_neither,
    "400_context_length_at_index": _build_length(400, "context_length_exceeded", 0),
    "400_context_length_at_wrong_index": _build_length(400, "context_length_exceeded", 1),
    "403_moderation": _build_moderation,
    "422_cohere": _build_cohere,
    "422_upstream_nested": _build_nested,
    "429_cloudflare_1015": _build_1015,
    "502_cloudflare_html": _build_html(502, "Bad gateway"),
    "503_cloudflare_html": _build_html(503, "Service temporarily unavailable"),
    "520_cloudflare_html": _build_html(520, "Web server is returning an unknown error"),
    "524_edge_timeout": _build_html(524, "A timeout occurred"),
}
"""Answers of another form, by kind."""
