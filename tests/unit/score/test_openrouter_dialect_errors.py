"""Each row of OpenRouter's error reference, from its body to the decision."""

from __future__ import annotations

from typing import Any

import pytest

from rerank_jobs.errors import CreditStop, EndpointStop, KeyStop, QuotaStop
from rerank_jobs.score.policy import Fail, Retry, Throttled
from tests.unit.score.judging import Expected, check, judge


def plain(code: int | None, message: str = "no", **metadata: Any) -> dict[str, Any]:
    """Return OpenRouter's error body."""
    error: dict[str, Any] = {"message": message, "metadata": metadata}
    return {"error": error if code is None else {"code": code, **error}, "user_id": "u"}


def available(status: int, code: str, *, retryable: bool, wait: int | None = None) -> Any:
    """Return OpenRouter's newer body about a model that cannot be had."""
    availability = {"code": code, "retryable": retryable, "requested_models": ["m"]}
    if wait is not None:
        availability["retry_after"] = wait
    return {"error": {"message": "no", "http_status": status, "availability": availability}}


OPENROUTER: dict[str, tuple[int, Any, Expected]] = {
    # the status table
    "400": (400, plain(400), Fail("http_400")),
    "401": (401, plain(401), KeyStop),
    "402": (402, plain(402), CreditStop),
    "403": (403, plain(403), KeyStop),
    "404": (404, plain(404), EndpointStop),
    "408": (408, plain(408), Retry()),
    "412": (412, plain(412), EndpointStop),
    "413": (413, plain(413), Fail("http_413", too_long=True)),
    "422": (422, plain(422), Fail("http_422")),
    "429": (429, plain(429), Throttled()),
    "500": (500, plain(500), Retry()),
    "502": (502, plain(502), Retry()),
    "503": (503, plain(503), Retry()),
    "504": (504, plain(504), Retry()),
    "524": (524, plain(524), Retry()),
    "529": (529, plain(529), Retry()),
    # error types
    "too long for the context": (
        400,
        plain(400, error_type="context_length_exceeded"),
        Fail("context_length_exceeded", too_long=True),
    ),
    "a string too long": (
        400,
        plain(400, error_type="string_too_long"),
        Fail("string_too_long", too_long=True),
    ),
    "max tokens": (
        400,
        plain(400, error_type="max_tokens_exceeded"),
        Fail("max_tokens_exceeded", too_long=True),
    ),
    "token limit": (
        400,
        plain(400, error_type="token_limit_exceeded"),
        Fail("token_limit_exceeded", too_long=True),
    ),
    "invalid request": (400, plain(400, error_type="invalid_request"), Fail("invalid_request")),
    "moderation": (403, plain(403, reasons=["x"], flagged_input="…"), Fail("moderation")),
    # limit sources
    "shared pool": (
        429,
        plain(
            429,
            "Provider returned error",
            limit_source="upstream_provider_shared_pool",
            retry_after_seconds=30,
        ),
        Throttled(30.0),
    ),
    "free shared capacity": (
        429,
        plain(429, limit_source="openrouter_shared_capacity"),
        Throttled(),
    ),
    "admission": (429, plain(429, limit_source="openrouter_admission_control"), Throttled()),
    "free tier of the day": (
        429,
        plain(429, limit_source="openrouter_free_tier_daily"),
        QuotaStop,
    ),
    "in-flight budget": (
        402,
        plain(402, limit_source="openrouter_in_flight_budget", reason="in_flight_budget_exhausted"),
        Throttled(120.0),
    ),
    "beyond the budget": (
        402,
        plain(402, limit_source="openrouter_credits", reason="weight_exceeds_budget"),
        CreditStop,
    ),
    "credits": (402, plain(402, limit_source="openrouter_credits"), CreditStop),
    "key limit": (402, plain(402, limit_source="openrouter_key_limit"), CreditStop),
    "guardrail": (403, plain(403, limit_source="openrouter_guardrail_budget"), CreditStop),
    "workspace": (403, plain(403, limit_source="openrouter_workspace_budget"), CreditStop),
    # availability
    "model_not_found": (400, available(400, "model_not_found", retryable=False), EndpointStop),
    "wrong_endpoint": (400, available(400, "wrong_endpoint", retryable=False), EndpointStop),
    "no_endpoints": (404, available(404, "no_endpoints", retryable=False), EndpointStop),
    "model_deprecated": (404, available(404, "model_deprecated", retryable=False), EndpointStop),
    "model_unavailable_upstream": (
        404,
        available(404, "model_unavailable_upstream", retryable=False),
        EndpointStop,
    ),
    "privacy": (404, available(404, "privacy_restricted", retryable=False), EndpointStop),
    "constraint": (404, available(404, "constraint_filtered", retryable=False), EndpointStop),
    "free variant": (404, available(404, "free_variant_ended", retryable=False), EndpointStop),
    "region": (403, available(403, "region_restricted", retryable=False), EndpointStop),
    "capacity": (429, available(429, "capacity_exhausted", retryable=True, wait=9), Throttled(9.0)),
    "unavailable": (503, available(503, "temporarily_unavailable", retryable=True), Retry()),
    # recorded bodies
    "unknown model": (400, plain(400, "foo/bar is not a valid model ID"), EndpointStop),
    "upstream rate limit": (
        429,
        plain(
            429,
            "Provider returned error",
            provider_name="Google",
            raw="… is temporarily rate-limited upstream. Please retry shortly",
        ),
        Throttled(),
    ),
    "upstream validation": (
        422,
        plain(422, '{"message":"invalid request: document at index 5 cannot be empty"}'),
        Fail("http_422", index=5),
    ),
    "upstream parameter": (
        422,
        plain(
            422, 'Provider returned error: {"id":"1","message":"unknown field: parameter \'x\'"}'
        ),
        EndpointStop,
    ),
    "cloudflare page": (502, b"<!DOCTYPE html><title>502</title>", Retry()),
    "cloudflare 1015": (429, b"error code: 1015", Throttled()),
    "an error with 200": (200, plain(429), Throttled()),
    "a typed error with 200": (200, {"error": {"error_type": "payment_required"}}, CreditStop),
    "neither with 200": (200, {"id": "x"}, Retry()),
}


@pytest.mark.parametrize("name", OPENROUTER)
def test_each_row_of_openrouters_errors_has_its_decision(name: str) -> None:
    """Every status, error type, limit source, availability and recorded body is decided."""
    status, body, expected = OPENROUTER[name]
    check(judge("openrouter", status, body), expected)
