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
