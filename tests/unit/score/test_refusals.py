"""What is kept of error answers: status, closed vocabularies, and how long to wait."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import orjson
import pytest

from rerank_jobs.score.dialects.refusals import read_refusal
from rerank_jobs.score.exchange import Answer, Refusal

NOW = 1_790_000_000.0


def read(
    status: int,
    body: bytes | dict[str, Any],
    headers: dict[str, str] | None = None,
    *,
    n: int = 10,
) -> Refusal:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return read_refusal(Answer(status, headers or {}, raw), NOW, n)


def error(**fields: Any) -> dict[str, Any]:
    return {"error": fields, "user_id": "u"}


def test_the_typed_error_body_is_read() -> None:
    """Status, error type and limit source come from the documented places."""
    body = error(
        code=429,
        message="Provider returned error",
        metadata={
            "error_type": "rate_limit_exceeded",
            "limit_source": "upstream_provider_shared_pool",
            "is_byok": False,
        },
    )
    assert read(429, body) == Refusal(
        status=429,
        error_type="rate_limit_exceeded",
        limit_source="upstream_provider_shared_pool",
    )


def test_the_availability_variant_is_read() -> None:
    """The newer body without a code has the HTTP status and its availability."""
    body = error(
        message="gone",
        error_type="not_found",
        http_status=404,
        availability={"code": "no_endpoints", "retryable": False},
    )
    assert read(404, body) == Refusal(
        status=404, error_type="not_found", availability="no_endpoints", retryable=False
    )


@pytest.mark.parametrize(
    ("headers", "metadata", "availability"),
    [
        ({"retry-after": "17"}, {}, {}),
        ({}, {}, {"retry_after": 17}),
        ({}, {"retry_after_seconds": 17}, {}),
        ({}, {"retry_after_seconds_raw": 17.0}, {}),
        ({}, {"headers": {"Retry-After": "17"}}, {}),
        ({}, {"headers": {"X-RateLimit-Reset": str(int((NOW + 17) * 1000))}}, {}),
        ({"x-ratelimit-reset": str(int((NOW + 17) * 1000))}, {}, {}),
        ({"x-ratelimit-reset": str(int(NOW + 17))}, {}, {}),
        ({"retry-after": formatdate(NOW + 17, usegmt=True)}, {}, {}),
    ],
)
def test_a_wait_is_found_in_each_of_its_places(
    headers: dict[str, str], metadata: dict[str, Any], availability: dict[str, Any]
) -> None:
    """Each place, in seconds, Unix seconds, Unix milliseconds or as a date, gives the wait."""
    body = error(code=429, metadata=metadata, availability=availability)
    assert read(429, body, headers).wait_seconds == pytest.approx(17)


def test_the_largest_sane_wait_counts() -> None:
    """Of several hints the longest is taken; those beyond belief are not hints."""
    body = error(
        code=429,
        metadata={"retry_after_seconds": 30, "headers": {"Retry-After": "9999999"}},
        availability={"retry_after": 5},
    )
    assert read(429, body, {"retry-after": "20"}).wait_seconds == 30


@pytest.mark.parametrize(
    "hint", ["-1", "nan", "inf", "soon", "", "1e9", None, True, [3], "Wed, 99 Foo"]
)
def test_an_insane_wait_is_no_hint(hint: Any) -> None:
    """Negative, endless, absurd and unreadable hints are dropped."""
    body = error(code=429, metadata={"retry_after_seconds": hint, "headers": {"Retry-After": hint}})
    headers = {"retry-after": hint} if isinstance(hint, str) else {}
    assert read(429, body, headers).wait_seconds is None


def test_a_reset_in_the_past_is_no_hint() -> None:
    """An instant that has gone by says nothing about how long to wait."""
    assert read(429, b"", {"x-ratelimit-reset": str(int(NOW - 5))}).wait_seconds is None


@pytest.mark.parametrize("instant", ["2026-09-30T00:00:00Z", "2026-09-30T00:00:00+00:00"])
def test_the_reset_of_a_budget_is_a_wait(instant: str) -> None:
    """metadata.resets_at is an instant that may be days ahead."""
    wait = read(403, error(code=403, metadata={"resets_at": instant})).wait_seconds
    assert wait == pytest.approx(1_790_726_400 - NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>cloudflare</html>",
        b"error code: 1015",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b'{"error":"Overloaded"}',
        b'{"error":null}',
        b'{"error":[1]}',
        b'{"id":"x","message":"too many"}',
        b'{"detail":"x"}',
        b'{"error":{"code":"rate_limited","metadata":[],"availability":"x"}}',
        b'{"error":{"code":1e300,"metadata":{"headers":7}}}',
        b'{"error":{"code":99}}',
    ],
)
def test_every_other_body_leaves_the_http_status(body: bytes) -> None:
    """HTML, plain text, flat and ill-typed errors crash nothing."""
    assert read(503, body) == Refusal(status=503)


def test_the_code_may_be_a_string() -> None:
    """A numeric code in quotes is a code."""
    assert read(400, error(code="429")).status == 429


def test_a_type_stands_in_for_a_missing_code_in_a_success() -> None:
    """With HTTP 200 and no code, the error type tells the status."""
    assert read(200, error(error_type="authentication")).status == 401


def test_edge_timeouts_may_have_been_charged() -> None:
    """504 and 524 come from an edge that gave up on a search that may have run to its end."""
    assert [s for s in (408, 500, 502, 503, 504, 524, 529) if read(s, b"").billable] == [504, 524]


@pytest.mark.parametrize(
    "message",
    [
        "foo/bar is not a valid model ID",
        "No endpoints found for foo/bar.",
        "model 'foo' not found",
        "The requested model foo does not exist",
    ],
)
def test_an_unknown_model_is_told_from_its_message(message: str) -> None:
    """OpenRouter's plain 400 for an unknown model names it in the message alone."""
    assert read(400, error(code=400, message=message)).model_unknown


@pytest.mark.parametrize(
    "message",
    [
        "document 3 is too long: foo is not a valid model",
        "x" * 400 + " is not a valid model",
        "documents[0]: the model railway was not found",
        None,
        7,
    ],
)
def test_an_echoed_text_is_not_taken_for_an_unknown_model(message: Any) -> None:
    """A message about content, which may quote a document, does not stop the job."""
    assert not read(400, error(code=400, message=message)).model_unknown


def test_moderation_is_recognised() -> None:
    """Reasons and a flagged input mean that the content was refused."""
    body = error(code=403, metadata={"reasons": ["violence"], "flagged_input": "text"})
    assert read(403, body).moderated


def test_no_free_text_survives() -> None:
    """Messages, raw provider texts and unknown words leave no trace."""
    canary = "canary text"
    body = error(
        code=400,
        message=canary,
        error_type=canary,
        availability={"code": canary, "retryable": canary},
        metadata={
            "error_type": canary,
            "limit_source": canary,
            "reason": canary,
            "raw": canary,
            "flagged_input": canary,
        },
    )
    assert canary not in repr(read(400, body))


@pytest.mark.parametrize(
    "message",
    [
        "text is too long",
        "This model's maximum context length is 512 tokens",
        "Request exceeds the maximum number of tokens",
        "Input length 566 exceeds maximum allowed token size 512",
        "input validation error: `inputs` must have less than 512 tokens. Given: 600",
        "document at index 3 has too many tokens",
        "the document exceeds 4096 tokens",
        "documents must not be longer than the maximum of 122880 characters",
        "Payload too large",
    ],
)
@pytest.mark.parametrize("place", ["message", "detail", "error"])
def test_a_message_about_size_is_recognised(message: str, place: str) -> None:
    """Plain words about length say that a shorter text may pass, wherever they stand."""
    refusal = read(400, {place: message})
    assert refusal.too_long
    assert not refusal.parameter_refused
    assert not refusal.model_unknown


@pytest.mark.parametrize(
    "message",
    [
        "invalid document",
        'cannot parse "this text is too long"',
        "x" * 400 + " is too long",
        "rate limit reached",
        "the query must not be blank",
    ],
)
def test_other_messages_are_not_about_size(message: str) -> None:
    """What is quoted, stands far behind or is about something else says nothing of length."""
    assert not read(400, {"message": message}).too_long


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_words_count_only_where_content_can_be_refused(status: int) -> None:
    """A busy server's words about maxima and fields are not about a document."""
    words = "unknown field: document at index 2 is too long"
    refusal = read(status, {"message": words})
    assert (refusal.too_long, refusal.index, refusal.parameter_refused) == (False, None, False)


@pytest.mark.parametrize(
    ("message", "index"),
    [
        ("document at index 3 cannot be empty", 3),
        ("documents[4] must be a string", 4),
        ("documents: document at index 5 is an image", 5),
        ("index: 6", 6),
        ("texts.7: invalid", 7),
        ("index 9", 9),
        ("index 10", None),
        ("index -1", None),
        ("index 99999999999999", None),
        ("3 documents are empty", None),
        ("queries[2] is empty", None),
        ("x" * 400 + " index 3", None),
    ],
)
def test_a_named_document_is_an_index_in_range(message: str, index: int | None) -> None:
    """An error's index is kept only if the request has such a document."""
    assert read(400, {"message": message}, n=10).index == index


@pytest.mark.parametrize(
    ("fault", "index"),
    [
        ({"loc": ["body", "documents", 3]}, 3),
        ({"loc": ["body", "documents", True]}, None),
        ({"loc": ["body", "documents", -1]}, None),
        ({"loc": ["body", "documents", 10]}, None),
        ({"loc": ["body", "queries", 0]}, None),
        ({"loc": ["body", 17], "type": "json_invalid"}, None),
        ({"loc": "documents"}, None),
        ({}, None),
        (7, None),
    ],
)
def test_a_fault_of_a_list_is_an_index_in_range(fault: Any, index: int | None) -> None:
    """FastAPI's place of a fault names the document, and nothing odd in it crashes."""
    refusal = read(422, {"detail": [fault]}, n=10)
    assert refusal.index == index
    assert not refusal.parameter_refused


@pytest.mark.parametrize(
    "message",
    [
        "unknown field: parameter 'top_k' is not a valid field",
        "Unrecognized request argument supplied: top_k",
        'json: unknown field "top_k"',
        "Extra inputs are not permitted",
        "parameter 'top_k' is not supported",
        "the field top_k is not allowed",
        "Malformed input request: #: required key [api_version] not found",
        "Failed to deserialize the JSON body into the target type: missing field `texts`",
    ],
)
def test_a_refused_parameter_is_recognised(message: str) -> None:
    """A field that every request has is the job's matter."""
    assert read(422, {"message": message}).parameter_refused


@pytest.mark.parametrize(
    "message",
    [
        "document at index 3: unknown field",
        "unsupported field in documents[2]",
        'text "unknown field" is refused',
        "the query is refused",
    ],
)
def test_a_message_about_content_is_no_refused_parameter(message: str) -> None:
    """What names a document, or quotes one, does not stop the job."""
    assert not read(422, {"message": message}).parameter_refused


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "context_length_exceeded", "message": "x"}},
        {"error": {"type": "string_too_long"}},
        {"error_type": "max_tokens_exceeded"},
    ],
)
def test_a_type_about_size_is_recognised(body: dict[str, Any]) -> None:
    """The closed words for length count in every place of a type."""
    assert read(400, body).too_long


def test_milliseconds_are_a_hint_too() -> None:
    """retry-after-ms, which Cohere's clients heed, is a wait."""
    assert read(429, b"", {"retry-after-ms": "1500"}).wait_seconds == 1.5


def test_no_free_text_of_other_servers_survives() -> None:
    """Plain messages, lists of faults and quoted bodies leave no trace."""
    canary = "canary text"
    nested = orjson.dumps({"message": canary}).decode()
    bodies: list[Any] = [
        {"id": canary, "message": canary},
        {"detail": canary},
        {"detail": [{"loc": ["body", canary], "msg": canary, "input": canary, "type": canary}]},
        {"error": canary, "error_type": canary},
        {"error": {"message": nested, "type": canary, "param": canary, "code": canary}},
        {"message": canary, "__type": canary},
        canary.encode(),
    ]
    for body in bodies:
        assert canary not in repr(read(422, body, {"x-amzn-errortype": canary}))
