"""OpenRouter's errors as data: a row for each status, error type, limit source and availability.

Sources: OpenRouter's documents (errors, limits, model availability) and recorded bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SHAPES", "ErrorShape"]


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """One error in OpenRouter's JSON; ``availability`` selects the newer form without a code."""

    status: int
    message: str
    error_type: str | None = None
    availability: str | None = None
    retryable: bool = False
    wait_seconds: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def _shape(status: int, error_type: str | None, message: str, **rest: Any) -> ErrorShape:
    return ErrorShape(status, message, error_type, **rest)


def _limit(source: str, status: int, error_type: str, message: str, **metadata: Any) -> ErrorShape:
    return ErrorShape(status, message, error_type, metadata={"limit_source": source, **metadata})


def _gone(
    code: str, status: int, error_type: str, message: str, *, retryable: bool = False
) -> ErrorShape:
    return ErrorShape(status, message, error_type, availability=code, retryable=retryable)


_SPENT = {"scope": "key", "limit_usd": 10.0, "spend_usd": 10.0, "resets_at": "2099-01-01T00:00:00Z"}
_UPSTREAM = {"provider_name": "Cohere", "is_byok": False, "remedy_hint": "add your own key"}

SHAPES: Mapping[str, ErrorShape] = {
    "400_invalid_request": _shape(400, "invalid_request", "Invalid request parameters"),
    "400_invalid_prompt": _shape(400, "invalid_prompt", "The input cannot be read"),
    "400_content_policy_violation": _shape(
        400, "content_policy_violation", "The input violates the provider's policy"
    ),
    "400_refusal": _shape(400, "refusal", "The model refused the input"),
    "400_image_too_large": _shape(400, "image_too_large", "An image is too large"),
    "400_context_length_exceeded": _shape(
        400, "context_length_exceeded", "The input exceeds the context length of 4096 tokens"
    ),
    "400_max_tokens_exceeded": _shape(400, "max_tokens_exceeded", "Too many tokens"),
    "400_token_limit_exceeded": _shape(400, "token_limit_exceeded", "Token limit exceeded"),
    "400_string_too_long": _shape(400, "string_too_long", "String too long"),
    "400_model_unknown": _shape(400, None, "nobody/nothing is not a valid model ID"),
    "400_model_not_found": _gone("model_not_found", 400, "not_found", "Model not found"),
    "400_wrong_endpoint": _gone(
        "wrong_endpoint", 400, "invalid_request", "This model is not a rerank model"
    ),
    "401_authentication": _shape(401, "authentication", "No auth credentials found"),
    "402_payment_required": _shape(402, "payment_required", "Insufficient credits"),
    "402_openrouter_credits": _limit(
        "openrouter_credits", 402, "payment_required", "Insufficient credits"
    ),
    "402_weight_exceeds_budget": _limit(
        "openrouter_credits",
        402,
        "payment_required",
        "This request costs more than the budget holds",
        reason="weight_exceeds_budget",
    ),
    "402_openrouter_key_limit": _limit(
        "openrouter_key_limit", 402, "payment_required", "Key limit exceeded"
    ),
    "402_openrouter_in_flight_budget": ErrorShape(
        402,
        "Too much is in flight for this account's balance",
        "payment_required",
        wait_seconds=120,
        metadata={
            "limit_source": "openrouter_in_flight_budget",
            "reason": "in_flight_budget_exhausted",
        },
    ),
    "403_permission_denied": _shape(403, "permission_denied", "The key lacks this permission"),
    "403_openrouter_guardrail_budget": _limit(
        "openrouter_guardrail_budget", 403, "permission_denied", "Budget exceeded", **_SPENT
    ),
    "403_openrouter_workspace_budget": _limit(
        "openrouter_workspace_budget", 403, "permission_denied", "Budget exceeded", **_SPENT
    ),
    "403_openrouter_key_limit": _limit(
        "openrouter_key_limit", 403, "permission_denied", "Key limit exceeded", **_SPENT
    ),
    "403_region_restricted": _gone(
        "region_restricted", 403, "permission_denied", "Not served in your region"
    ),
    "404_not_found": _shape(404, "not_found", "Not found"),
    **{
        f"404_{code}": _gone(code, 404, "not_found", "No endpoints found for cohere/rerank-v3.5.")
        for code in (
            "no_endpoints",
            "model_deprecated",
            "model_unavailable_upstream",
            "privacy_restricted",
            "constraint_filtered",
            "free_variant_ended",
        )
    },
    "408_request_timeout": _shape(408, None, "Request timed out"),
    "412_precondition_failed": _shape(412, "precondition_failed", "Precondition failed"),
    "413_payload_too_large": _shape(413, "payload_too_large", "Payload too large"),
    "422_unprocessable": _shape(422, "unprocessable", "The request cannot be processed"),
    "429_rate_limit_exceeded": _shape(429, "rate_limit_exceeded", "Rate limit exceeded"),
    "429_upstream_provider_shared_pool": _limit(
        "upstream_provider_shared_pool",
        429,
        "rate_limit_exceeded",
        "Provider returned error",
        raw="cohere/rerank-v3.5 is temporarily rate-limited upstream. Please retry shortly.",
        **_UPSTREAM,
    ),
    "429_openrouter_shared_capacity": _limit(
        "openrouter_shared_capacity",
        429,
        "rate_limit_exceeded",
        "Rate limit exceeded: limited to 15 requests per minute",
    ),
    "429_openrouter_admission_control": _limit(
        "openrouter_admission_control", 429, "rate_limit_exceeded", "Too many requests"
    ),
    "429_openrouter_free_tier_daily": _limit(
        "openrouter_free_tier_daily", 429, "rate_limit_exceeded", "Daily limit reached"
    ),
    "429_capacity_exhausted": _gone(
        "capacity_exhausted", 429, "rate_limit_exceeded", "No capacity left", retryable=True
    ),
    "500_server": _shape(500, "server", "Internal Server Error"),
    "500_unmapped": _shape(500, "unmapped", "Internal Server Error"),
    "502_provider_unavailable": _shape(502, "provider_unavailable", "Provider returned error"),
    "503_provider_overloaded": _shape(503, "provider_overloaded", "Provider overloaded"),
    "503_temporarily_unavailable": _gone(
        "temporarily_unavailable", 503, "provider_overloaded", "Try again later", retryable=True
    ),
    "504_timeout": _shape(504, "timeout", "The provider did not answer in time"),
    "529_provider_overloaded": _shape(529, "provider_overloaded", "Provider overloaded"),
}
"""Errors in OpenRouter's own JSON, by kind."""
