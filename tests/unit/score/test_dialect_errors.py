"""Each documented error of each API, from its body to the decision."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rerank_jobs.errors import CreditStop, EndpointStop, KeyStop, QuotaStop, RerankJobsError
from rerank_jobs.score import DIALECTS
from rerank_jobs.score.exchange import Answer, Malformed, Refusal
from rerank_jobs.score.policy import Decision, Fail, Retry, Stop, Target, Throttled, decide

NOW = 1_790_000_000.0
TARGET = Target("https://api.test/v1", "some/model", "KEY")
N = 8

Expected = Decision | type[RerankJobsError]


def judge(dialect: str, status: int, body: Any, headers: dict[str, str] | None = None) -> Decision:
    """Read an answer as the dialect does, and decide as a run does."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    value = DIALECTS[dialect]
    reading = value.decode(Answer(status, headers or {}, raw), N, NOW)
    assert isinstance(reading, Refusal | Malformed)
    return decide(reading, TARGET, longest_wait=600, now=NOW, by_status=value.by_status)


def check(decision: Decision, expected: Expected) -> None:
    if isinstance(expected, type):
        assert isinstance(decision, Stop)
        assert type(decision.error) is expected
    else:
        assert decision == expected


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

OTHERS: dict[str, tuple[str, int, Any, Expected]] = {
    # Cohere
    "no documents": (
        "cohere",
        400,
        {"id": "1", "message": "invalid request: list of documents must not be empty"},
        Fail("http_400"),
    ),
    "an empty document": (
        "cohere",
        400,
        {"id": "1", "message": "invalid request: document at index 0 cannot be empty"},
        Fail("http_400", index=0),
    ),
    "top_k": (
        "cohere",
        422,
        {
            "id": "1",
            "message": "unknown field: parameter 'top_k' is not a valid field. Accepted…",
        },
        EndpointStop,
    ),
    "cohere's unknown model": (
        "cohere",
        404,
        {"id": "1", "message": "model 'x' not found, make sure the correct model ID was used"},
        EndpointStop,
    ),
    "invalid token": ("cohere", 401, {"id": "1", "message": "invalid api token"}, KeyStop),
    "payment": ("cohere", 402, {"message": "Please add or update your payment"}, CreditStop),
    "forbidden": ("cohere", 403, {"message": "no access"}, KeyStop),
    "trial limit": ("cohere", 429, {"message": "You are using a Trial key"}, Throttled()),
    "deny-listed token": ("cohere", 498, {"message": "blocked"}, KeyStop),
    "client closed": ("cohere", 499, {"message": "request cancelled"}, Retry()),
    "cohere 500": ("cohere", 500, {"message": "internal server error"}, Retry()),
    "not implemented": ("cohere", 501, {"message": "not implemented"}, EndpointStop),
    "cohere 503": ("cohere", 503, {"message": "unavailable"}, Retry()),
    "cohere 504": ("cohere", 504, {"message": "timeout"}, Retry()),
    # LiteLLM, in OpenAI's manner with an upstream's words inside
    "litellm's upstream": (
        "cohere",
        400,
        {
            "error": {
                "message": 'litellm.BadRequestError: CohereException - {"message":"document at'
                ' index 2 cannot be empty"}',
                "type": "None",
                "param": "None",
                "code": "400",
            }
        },
        Fail("http_400", index=2),
    ),
    "litellm's limit": (
        "cohere",
        429,
        {"error": {"message": "litellm.RateLimitError", "type": "None", "code": "429"}},
        Throttled(),
    ),
    "a spent quota": (
        "cohere",
        429,
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
        CreditStop,
    ),
    # Jina, Voyage and others on FastAPI
    "jina's words": ("jina", 422, {"detail": "validation failed"}, Fail("http_422")),
    "jina's key": ("jina", 401, {"detail": "Unauthorized"}, KeyStop),
    "jina's balance": ("jina", 402, {"detail": "Insufficient balance"}, CreditStop),
    "jina's pace": ("jina", 429, {"detail": "Rate limit"}, Throttled()),
    "a faulty document": (
        "jina",
        422,
        {"detail": [{"loc": ["body", "documents", 3], "msg": "…", "type": "string_type"}]},
        Fail("http_422", index=3),
    ),
    "a faulty document in a union": (
        "jina",
        422,
        {"detail": [{"loc": ["body", "R", "documents", "list[str]", 4], "type": "string_type"}]},
        Fail("http_422", index=4),
    ),
    "too many documents": (
        "jina",
        422,
        {"detail": [{"loc": ["body", "documents"], "type": "too_long"}]},
        Fail("http_422", too_long=True),
    ),
    "a blank query": (
        "jina",
        422,
        {"detail": [{"loc": ["body", "query"], "type": "string_too_short"}]},
        Fail("http_422"),
    ),
    "an extra field": (
        "jina",
        422,
        {"detail": [{"loc": ["body", "top_k"], "type": "extra_forbidden"}]},
        EndpointStop,
    ),
    "a missing field": (
        "jina",
        422,
        {"detail": [{"loc": ["body", "texts"], "msg": "Field required", "type": "missing"}]},
        EndpointStop,
    ),
    "voyage without truncation": (
        "voyage",
        400,
        {
            "detail": "The example at index 6 in your batch has too many tokens and does not fit"
            " into the model's context window of 32000 tokens."
        },
        Fail("http_400", index=6, too_long=True),
    ),
    "voyage's model": (
        "voyage",
        400,
        {"detail": "Model foo is not supported. Supported models are ['rerank-2.5', …]."},
        EndpointStop,
    ),
    "voyage's key": ("voyage", 401, {"detail": "Provided API key is invalid."}, KeyStop),
    "voyage 503": ("voyage", 503, {"detail": "overloaded"}, Retry()),
    # vLLM
    "vllm's context": (
        "vllm",
        400,
        {
            "error": {
                "message": "This model's maximum context length is 512 tokens. However, you"
                " requested 600 tokens in the input for score generation.",
                "type": "BadRequestError",
                "param": "input_tokens",
                "code": 400,
            }
        },
        Fail("http_400", too_long=True),
    ),
    "vllm's model": (
        "vllm",
        404,
        {
            "error": {
                "message": "The model `x` does not exist.",
                "type": "NotFoundError",
                "param": "model",
                "code": 404,
            }
        },
        EndpointStop,
    ),
    "vllm's older, flat body": (
        "vllm",
        400,
        {"object": "error", "message": "bad", "type": "BadRequestError", "code": 400},
        Fail("http_400"),
    ),
    "vllm's parameter": (
        "vllm",
        400,
        {"error": {"message": "wrong", "type": "BadRequestError", "param": "truncation_side"}},
        EndpointStop,
    ),
    # Text Embeddings Inference
    "tei is overloaded": (
        "tei",
        429,
        {"error": "Model is overloaded", "error_type": "Overloaded"},
        Throttled(),
    ),
    "tei's backend": ("tei", 424, {"error": "Inference failed", "error_type": "Backend"}, Retry()),
    "tei's length": (
        "tei",
        422,
        {
            "error": "Input validation error: `inputs` must have less than 512 tokens. Given: 900",
            "error_type": "Validation",
        },
        Fail("Validation", too_long=True),
    ),
    "tei's batch": (
        "tei",
        413,
        {"error": "batch size 33 > maximum allowed batch size 32", "error_type": "Validation"},
        Fail("Validation", too_long=True),
    ),
    "tei's tokenizer": (
        "tei",
        422,
        {"error": "Tokenization error", "error_type": "Tokenizer"},
        Fail("Tokenizer"),
    ),
    "tei's empty batch": (
        "tei",
        400,
        {"error": "`texts` cannot be empty", "error_type": "Empty"},
        Fail("Empty"),
    ),
    "tei's field": (
        "tei",
        422,
        b"Failed to deserialize the JSON body into the target type: missing field `texts`",
        EndpointStop,
    ),
    # Infinity, in OpenAI's manner
    "infinity 400": ("infinity", 400, {"error": {"message": "x", "code": 400}}, Fail("http_400")),
    "infinity 500": ("infinity", 500, {"error": {"message": "x", "code": 500}}, Retry()),
    "infinity's list": (
        "infinity",
        422,
        {"detail": [{"loc": ["body", "documents"], "type": "value_error.list.max_items"}]},
        Fail("http_422", too_long=True),
    ),
    # NIM
    "nim's length": (
        "nim",
        400,
        {"error": "Input length 566 exceeds maximum allowed token size 512"},
        Fail("http_400", too_long=True),
    ),
    "nim's top_k": (
        "nim",
        400,
        {"detail": [{"loc": ["body", "top_k"], "type": "extra_forbidden"}]},
        EndpointStop,
    ),
    "nim's passage": (
        "nim",
        422,
        {"detail": [{"loc": ["body", "passages", 7, "text"], "type": "string_too_short"}]},
        Fail("http_422", index=7),
    ),
    # Bedrock
    "throttled": ("bedrock", 429, {"message": "Too many requests"}, Throttled()),
    "throttled by type": ("bedrock", 400, {"__type": "ThrottlingException"}, Throttled()),
    "quota": ("bedrock", 400, {"__type": "a#ServiceQuotaExceededException"}, QuotaStop),
    "validation": (
        "bedrock",
        400,
        {"__type": "ValidationException", "message": "document at index 1 cannot be empty"},
        Fail("ValidationException", index=1),
    ),
    "malformed": (
        "bedrock",
        400,
        {
            "__type": "ValidationException",
            "message": "Malformed input request: #: extraneous key [x] is not permitted, please…",
        },
        EndpointStop,
    ),
    "model identifier": (
        "bedrock",
        400,
        {
            "__type": "ValidationException",
            "message": "The provided model identifier is invalid.",
        },
        EndpointStop,
    ),
    "denied": ("bedrock", 403, {"__type": "AccessDeniedException"}, KeyStop),
    "expired": ("bedrock", 403, {"__type": "ExpiredTokenException"}, KeyStop),
    "unknown": ("bedrock", 404, {"__type": "ResourceNotFoundException"}, EndpointStop),
    "the model failed": ("bedrock", 424, {"__type": "ModelErrorException"}, Retry()),
    "the model is slow": ("bedrock", 408, {"__type": "ModelTimeoutException"}, Retry()),
    "not ready": ("bedrock", 429, {"__type": "ModelNotReadyException"}, Throttled()),
    "unavailable": ("bedrock", 503, {"__type": "ServiceUnavailableException"}, Retry()),
    "internal": ("bedrock", 500, {"__type": "InternalServerException"}, Retry()),
}


@pytest.mark.parametrize("name", OPENROUTER)
def test_each_row_of_openrouters_errors_has_its_decision(name: str) -> None:
    """Every status, error type, limit source, availability and recorded body is decided."""
    status, body, expected = OPENROUTER[name]
    check(judge("openrouter", status, body), expected)


@pytest.mark.parametrize("name", OTHERS)
def test_each_documented_error_of_the_others_has_its_decision(name: str) -> None:
    """Errors of all shapes end in the decision that their server means."""
    dialect, status, body, expected = OTHERS[name]
    check(judge(dialect, status, body), expected)


def test_aws_names_the_error_in_a_header_too() -> None:
    """Where the body has no type, the header's counts, whatever is appended to it."""
    headers = {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/coral/x/"}
    check(judge("bedrock", 400, {"message": "Too many"}, headers), Throttled())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 429, 500, 503, 529])
def test_a_body_without_words_leaves_the_status(dialect: str, status: int) -> None:
    """Every dialect decides by the status alone where nothing else is said."""
    same = judge("openrouter", status, b"")
    assert type(judge(dialect, status, b"")) is type(same)


def test_a_refused_field_is_told_from_a_wrong_model() -> None:
    """The message of the stop says what to look at."""
    decision = judge("cohere", 422, {"message": "unknown field: parameter 'x'"})
    assert isinstance(decision, Stop)
    assert "endpoint.options" in str(decision.error)
