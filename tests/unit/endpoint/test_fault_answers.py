"""Error answers are what their names say, and name waits where they are asked to."""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime
from typing import Any, get_args

import httpx
import orjson
import pytest

from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.error_answers import WHOLE, Hint, Incident
from rerank_jobs.endpoint.error_shapes import SHAPES
from rerank_jobs.endpoint.faults import Faults, Rule
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.kinds import KINDS
from tests.unit.endpoint.conftest import BODY, RERANK, Send

NOW = 1_790_000_000.0
REFUSALS = sorted(name for name, kind in KINDS.items() if kind.refuse is not None)
HTML = {name for name in REFUSALS if name.endswith("_html")} | {"524_edge_timeout"}

ERROR_TYPES = {
    "authentication": 401,
    "payment_required": 402,
    "permission_denied": 403,
    "not_found": 404,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unprocessable": 422,
    "rate_limit_exceeded": 429,
    "server": 500,
    "unmapped": 500,
    "provider_unavailable": 502,
    "provider_overloaded": 503,
    "timeout": 504,
    "context_length_exceeded": 400,
    "max_tokens_exceeded": 400,
    "token_limit_exceeded": 400,
    "string_too_long": 400,
    "invalid_request": 400,
    "invalid_prompt": 400,
    "content_policy_violation": 400,
    "refusal": 400,
}
LIMIT_SOURCES = {
    ("upstream_provider_shared_pool", 429),
    ("openrouter_shared_capacity", 429),
    ("openrouter_admission_control", 429),
    ("openrouter_free_tier_daily", 429),
    ("openrouter_in_flight_budget", 402),
    ("openrouter_credits", 402),
    ("openrouter_key_limit", 402),
    ("openrouter_guardrail_budget", 403),
    ("openrouter_workspace_budget", 403),
    ("openrouter_key_limit", 403),
}
AVAILABILITY = {
    "model_not_found": 400,
    "wrong_endpoint": 400,
    "no_endpoints": 404,
    "model_deprecated": 404,
    "model_unavailable_upstream": 404,
    "privacy_restricted": 404,
    "constraint_filtered": 404,
    "free_variant_ended": 404,
    "region_restricted": 403,
    "capacity_exhausted": 429,
    "temporarily_unavailable": 503,
}
STATUSES = {400, 401, 402, 403, 404, 408, 412, 413, 422, 429, 500, 502, 503, 504, 524, 529}


def fail(send: Send, kind: str, body: dict[str, Any] = BODY, **rule: Any) -> httpx.Response:
    faults = Faults(rules=(Rule(kind=kind, **rule),))
    app = create_app(scorer=InstantScorer(), faults=faults, wall_clock=lambda: NOW)
    return send(app, "POST", RERANK, json=body)


@pytest.mark.parametrize("name", REFUSALS)
def test_the_status_is_the_one_in_the_name(send: Send, name: str) -> None:
    """Every error answer has the status its name begins with, in the headers and in the body."""
    reply = fail(send, name)
    assert reply.status_code == int(name[:3])
    if name in HTML:
        assert reply.headers["content-type"].startswith("text/html")
        assert reply.text.startswith("<!DOCTYPE html>")
        return
    if name == "429_cloudflare_1015":
        assert reply.text == "error code: 1015"
        return
    assert reply.headers["content-type"] == "application/json"
    error = reply.json().get("error", {})
    if not name.startswith("200"):
        assert error.get("code", error.get("http_status", int(name[:3]))) == int(name[:3])


def test_a_success_may_hold_an_error(send: Send) -> None:
    """With status 200: an error with its own code, without one, as bare text, or nothing at all."""
    bodies = {n: fail(send, n).json() for n in REFUSALS if n.startswith("200")}
    assert all("results" not in body for body in bodies.values())
    assert bodies.pop("200_neither").keys() == {"id", "model"}
    assert bodies.pop("200_error_text") == {"error": "error code: 1015"}
    codes = {name: body["error"].get("code") for name, body in bodies.items()}
    assert codes == {"200_error": 502, "200_error_rate_limit": 429, "200_error_without_code": None}


DECLARED = {400, 401, 402, 404, 429, 500, 502, 503, 524, 529}


@pytest.mark.parametrize(
    "name",
    [n for n, shape in SHAPES.items() if shape.availability is None and shape.status in DECLARED],
)
def test_answers_keep_to_the_contract(send: Send, name: str, assert_valid: Any) -> None:
    """Errors in OpenRouter's older form validate against its API document where it has them."""
    assert_valid(fail(send, name), "/rerank", "post")


def test_every_documented_word_has_an_answer() -> None:
    """Each status, error type, limit source and availability code of the API can be asked for."""
    shapes = SHAPES.values()
    assert {shape.error_type: shape.status for shape in shapes if shape.error_type}.keys() >= (
        ERROR_TYPES.keys()
    )
    for word, status in ERROR_TYPES.items():
        assert any(shape.error_type == word and shape.status == status for shape in shapes), word
    assert {
        (shape.metadata["limit_source"], shape.status)
        for shape in shapes
        if "limit_source" in shape.metadata
    } == LIMIT_SOURCES
    assert {
        shape.availability: shape.status for shape in shapes if shape.availability
    } == AVAILABILITY
    assert {int(name[:3]) for name in REFUSALS} >= STATUSES


def test_words_stand_in_their_documented_places(send: Send) -> None:
    """Error type and limit source are in the metadata; availability has its own object."""
    old = fail(send, "402_openrouter_in_flight_budget")
    assert old.json()["error"]["metadata"] == {
        "limit_source": "openrouter_in_flight_budget",
        "reason": "in_flight_budget_exhausted",
        "error_type": "payment_required",
    }
    assert old.headers["retry-after"] == "120"
    new = fail(send, "429_capacity_exhausted").json()["error"]
    assert "code" not in new
    assert (new["http_status"], new["error_type"]) == (429, "rate_limit_exceeded")
    assert new["availability"]["code"] == "capacity_exhausted"
    assert new["availability"]["retryable"] is True


@pytest.mark.parametrize("hint", get_args(Hint))
def test_a_wait_is_named_in_the_place_asked_for(send: Send, hint: Hint) -> None:
    """A wait of 17 s stands in exactly the place that the rule names."""
    reply = fail(send, "429_rate_limit_exceeded", wait_seconds=16.5, hints=(hint,))
    error = reply.json()["error"]
    metadata, inner = error["metadata"], error["metadata"].get("headers", {})
    reset = str(int((NOW + 16.5) * 1000))
    retry = reply.headers.get("retry-after")
    found = {
        "header": retry == "17",
        "header_date": retry is not None
        and retry != "17"
        and parsedate_to_datetime(retry).timestamp() == NOW + 17,
        "header_reset": reply.headers.get("x-ratelimit-reset") == reset,
        "availability": error.get("availability") == {"retry_after": 17},
        "metadata": metadata.get("retry_after_seconds") == 17,
        "metadata_raw": metadata.get("retry_after_seconds_raw") == 16.5,
        "metadata_header": inner.get("Retry-After") == "17",
        "metadata_reset": inner.get("X-RateLimit-Reset") == reset,
    }
    assert {place for place, there in found.items() if there} == {hint}


def test_no_wait_is_named_unless_asked_for(send: Send) -> None:
    """An upstream 429 may come without any hint."""
    reply = fail(send, "429_upstream_provider_shared_pool")
    assert "retry" not in str(reply.headers).lower()
    assert "retry_after" not in reply.text


POISONED = {**BODY, "documents": ["a", "b", "x POISON", "c"]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("400_context_length_at_index", "document at index 2 "),
        ("400_context_length_at_wrong_index", "document at index 3 "),
        ("422_cohere", "document at index 2 "),
        ("422_upstream_nested", "document at index 2 "),
    ],
)
def test_a_length_error_names_the_document(send: Send, name: str, words: str) -> None:
    """The whole request fails for one poisonous document, whose index the message names."""
    reply = fail(send, name, POISONED, document_contains="POISON")
    body = reply.json()
    message = body["error"]["message"] if "error" in body else body["message"]
    assert words in message
    assert "POISON" not in reply.text


@pytest.mark.parametrize("name", ["400_context_length_exceeded", "413_payload_too_large"])
def test_a_length_error_may_name_no_document(send: Send, name: str) -> None:
    """The whole request fails, and the message does not say which document is to blame."""
    reply = fail(send, name, POISONED, document_contains="POISON")
    assert reply.status_code == int(name[:3])
    assert "index" not in reply.text


def test_documents_beyond_a_number_of_tokens_are_refused(send: Send) -> None:
    """The first document that is too long by the server's own count is named with its size."""
    body = {**BODY, "documents": ["a", "b" * 400, "c" * 404, "d" * 800]}
    rule = {"document_tokens_over": 100}
    reply = fail(send, "400_context_length_at_index", body, **rule)
    assert reply.json()["error"]["message"].startswith("document at index 2 is too long: 101 ")
    body["documents"] = ["a", "b" * 400]
    assert fail(send, "400_context_length_at_index", body, **rule).status_code == 200


def test_an_upstream_body_is_nested_as_text(send: Send) -> None:
    """A forwarded 422 has Cohere's whole body as the text of the message."""
    error = fail(send, "422_upstream_nested").json()["error"]
    assert set(orjson.loads(error["message"])) == {"id", "message"}
    assert set(fail(send, "422_cohere").json()) == {"id", "message"}


def test_moderation_echoes_what_it_flagged(send: Send) -> None:
    """As the API does, a moderation error quotes the text: a client must not hand that on."""
    metadata = fail(send, "403_moderation", POISONED, document_contains="POISON").json()["error"][
        "metadata"
    ]
    assert metadata["flagged_input"] == "x POISON"
    assert metadata["reasons"]


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_answers_can_be_built_without_a_call(name: str) -> None:
    """Any error can be the answer to ``GET /key``, where there are no documents."""
    answer = WHOLE[name](Incident(now=NOW, rng=random.Random(1)))
    assert answer.status == int(name[:3])


def test_the_key_can_be_refused_too(send: Send) -> None:
    """A rule for ``GET /key`` strikes there and nowhere else; one for both strikes everywhere."""
    rule = Rule(kind="401_authentication", route="key")
    app = create_app(scorer=InstantScorer(), faults=Faults(rules=(rule,)))
    assert send(app, "GET", "/api/v1/key").status_code == 401
    assert send(app, "POST", RERANK, json=BODY).status_code == 200
    both = Faults(rules=(Rule(kind="503_cloudflare_html", route="both"),))
    app = create_app(scorer=InstantScorer(), faults=both)
    assert send(app, "GET", "/api/v1/key").status_code == 503
    assert send(app, "POST", RERANK, json=BODY).status_code == 503
    assert app.state.stats.faults == {"503_cloudflare_html": 2}
