"""OpenRouter's wire format on the server's side: request bodies in, reply bodies out. Pure.

Rules and shapes: OpenRouter's OpenAPI document, paths ``/rerank`` and ``/key``; the checks of
documents and their words are Cohere's, which answers behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = [
    "MAX_DOCUMENTS",
    "PROVIDER",
    "BadRequestError",
    "RerankCall",
    "WireAnswer",
    "build_error",
    "build_key_info",
    "build_reply",
    "parse_call",
]

MAX_DOCUMENTS = 10_000
"""Cohere refuses more (reranking best practices)."""

PROVIDER = "Embedded"


class BadRequestError(Exception):
    """The request is refused with 400; the message holds nothing of the request's text."""


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A valid rerank request; ``top_n`` is None where all results are wanted."""

    query: str
    documents: tuple[str, ...]
    top_n: int | None

    def __repr__(self) -> str:
        """Describe the call without its text."""
        return f"RerankCall({len(self.documents)} documents, top_n={self.top_n})"


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """A whole HTTP answer; ``headers`` do not hold its content type and length."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    content_type: str = "application/json"


def parse_call(body: bytes) -> RerankCall:
    """Return the call in a request body; raises BadRequestError naming the field at fault.

    Fields that the contract does not know are ignored.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        msg = "the body is not valid JSON in UTF-8"
        raise BadRequestError(msg) from error
    if not isinstance(data, dict):
        msg = "the body must be a JSON object"
        raise BadRequestError(msg)
    _require_text(data, "model")
    if not isinstance(data.get("provider", {}), dict | None):
        msg = "provider: must be an object"
        raise BadRequestError(msg)
    return RerankCall(_require_text(data, "query"), _parse_documents(data), _parse_top_n(data))


def build_reply(
    call: RerankCall,
    scores: Sequence[float],
    *,
    reply_id: str,
    model: str,
    search_units: int,
    total_tokens: int,
    cost: float,
) -> dict[str, Any]:
    """Return the 200 body: results by descending score, ties by index, each echoing its text."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return {
        "id": reply_id,
        "model": model,
        "provider": PROVIDER,
        "results": [
            {
                "index": index,
                "relevance_score": scores[index],
                "document": {"text": call.documents[index]},
            }
            for index in order[: call.top_n]
        ],
        "usage": {"search_units": search_units, "total_tokens": total_tokens, "cost": cost},
    }


def build_error(
    status: int, message: str, metadata: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return an error body: ``code`` repeats the HTTP status."""
    error: dict[str, Any] = {"code": status, "message": message}
    if metadata is not None:
        error["metadata"] = metadata
    return {"error": error}


def build_key_info(usage: float, limit: float | None = None) -> dict[str, Any]:
    """Return the body of ``GET /key`` for a key that has used ``usage`` of ``limit`` dollars.

    ``None``: it has no limit. The body has the fields of the API document and those that newer
    clients require.
    """
    periods = ("", "_daily", "_weekly", "_monthly")
    return {
        "data": {
            "label": "embedded",
            "limit": limit,
            "limit_remaining": None if limit is None else max(0.0, round(limit - usage, 9)),
            "limit_reset": None,
            "include_byok_in_limit": False,
            **{f"usage{period}": usage for period in periods},
            **{f"byok_usage{period}": 0.0 for period in periods},
            "is_free_tier": False,
            "is_management_key": False,
            "is_provisioning_key": False,
            "creator_user_id": None,
            "organization_id": None,
            "workspace_id": None,
            "expires_at": None,
            "allowed_data_regions": ["global"],
            "budgets": [],
            "effective_budget": None,
            "free_model_daily_requests": {"used": 0, "limit": 0, "remaining": 0},
            "rate_limit": {"requests": -1, "interval": "10s", "note": "Deprecated."},
        }
    }


def _require_text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value.strip():
        msg = f"{name}: a string that is not blank is required"
        raise BadRequestError(msg)
    return value


def _parse_documents(data: dict[str, Any]) -> tuple[str, ...]:
    documents = data.get("documents")
    if not isinstance(documents, list) or not documents:
        msg = "documents: list of documents must not be empty"
        raise BadRequestError(msg)
    if len(documents) > MAX_DOCUMENTS:
        msg = f"documents: at most {MAX_DOCUMENTS} are allowed"
        raise BadRequestError(msg)
    return tuple(_parse_document(index, document) for index, document in enumerate(documents))


def _parse_document(index: int, document: Any) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if text is None and isinstance(document, dict) and document.get("image") is not None:
        msg = f"documents: document at index {index} is an image; this model takes text only"
        raise BadRequestError(msg)
    if not isinstance(text, str):
        msg = f"documents: document at index {index} must be a string or an object with text"
        raise BadRequestError(msg)
    if not text.strip():
        msg = f"documents: document at index {index} cannot be empty"
        raise BadRequestError(msg)
    return text


def _parse_top_n(data: dict[str, Any]) -> int | None:
    if "top_n" not in data:
        return None
    top_n = data["top_n"]
    if not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1:
        msg = "top_n: an integer of at least 1 is required"
        raise BadRequestError(msg)
    return top_n
