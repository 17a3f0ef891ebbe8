"""Each documented error of the other APIs, from its body to the decision."""

from __future__ import annotations

from typing import Any

import pytest

from rerank_jobs.errors import CreditStop, EndpointStop, KeyStop, QuotaStop
from rerank_jobs.score import DIALECTS
from rerank_jobs.score.policy import Fail, Retry, Stop, Throttled
from tests.unit.score.judging import Expected, check, judge

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
