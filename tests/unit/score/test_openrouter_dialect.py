"""OpenRouter's wire format: what is sent, and what is made of every kind of success."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rerank_jobs.model import Usage
from rerank_jobs.score import DIALECTS
from rerank_jobs.score.exchange import Answer, Malformed, Reading, Refusal, Reply
from tests.unit.score.fakes import reply_body

NOW = 1_790_000_000.0
OPENROUTER = DIALECTS["openrouter"]

# The example of OpenRouter's reference.
EXAMPLE = (
    b'{"id":"gen-rerank-1234567890-abc","model":"cohere/rerank-v3.5","provider":"Cohere",'
    b'"results":[{"index":0,"relevance_score":0.98,"document":{"text":"Paris is the capital of'
    b' France."}}],"usage":{"search_units":1,"total_tokens":150,"cost":0.001}}'
)


def decode(body: bytes, n: int = 3, status: int = 200) -> Reading:
    return OPENROUTER.decode(Answer(status, {}, body), n, NOW)


def results(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"index": index, "relevance_score": score} for index, score in pairs]


def test_the_request_holds_documented_fields_only() -> None:
    """The body is model, query and documents in order: no top_n, which would drop scores."""
    body = OPENROUTER.encode("cohere/rerank-v3.5", "q ü", ["b", "a"], {})
    assert orjson.loads(body) == {
        "model": "cohere/rerank-v3.5",
        "query": "q ü",
        "documents": ["b", "a"],
    }


def test_the_dialect_states_its_limits() -> None:
    """The limits that planning relies on are part of the value."""
    assert (OPENROUTER.name, OPENROUTER.path) == ("openrouter", "/rerank")
    assert (OPENROUTER.max_passages, OPENROUTER.score_kind) == (1000, "probability")
    assert not OPENROUTER.listwise("cohere/rerank-v3.5")


def test_the_reference_example_is_read_whole() -> None:
    """Every field of the documented reply arrives, the echoed document is dropped."""
    assert decode(EXAMPLE, n=1) == Reply(
        scores=(0.98,),
        usage=Usage(search_units=1, total_tokens=150, cost_usd=0.001),
        response_id="gen-rerank-1234567890-abc",
        model="cohere/rerank-v3.5",
        provider="Cohere",
    )


def test_scores_are_joined_by_index_whatever_the_order() -> None:
    """Order and text of the results play no part."""
    body = reply_body(3, results=results((2, 0.1), (0, 0.3), (1, 0.2)))
    reading = decode(body)
    assert isinstance(reading, Reply)
    assert reading.scores == (0.3, 0.2, 0.1)


def test_whole_number_and_negative_scores_are_numbers() -> None:
    """A score may be an integer in JSON, and any finite number."""
    reading = decode(reply_body(3, results=results((0, 1), (1, 0), (2, -3.5))))
    assert isinstance(reading, Reply)
    assert reading.scores == (1.0, 0.0, -3.5)
    assert all(type(score) is float for score in reading.scores)


def test_unknown_keys_are_ignored() -> None:
    """A newer server may say more."""
    body = reply_body(1, results=[{"index": 0, "relevance_score": 0.5, "why": "x"}], new={"a": 1})
    assert isinstance(decode(body, n=1), Reply)


@pytest.mark.parametrize("field", ["id", "provider", "usage"])
@pytest.mark.parametrize("value", [None, 7, [], {}, "", "a\nb", "x" * 201])
def test_optional_fields_of_a_wrong_kind_are_missing(field: str, value: object) -> None:
    """What the reply need not have never spoils the scores that were paid for."""
    reading = decode(reply_body(3, **{field: value}))
    assert isinstance(reading, Reply)
    assert len(reading.scores) == 3
    if field == "usage":
        assert reading.usage == Usage()
    else:
        assert {"id": reading.response_id, "provider": reading.provider}[field] is None


@pytest.mark.parametrize("value", [True, "1", -1, 1.5, 2**40, None, [1], {}])
def test_an_ill_typed_count_is_missing(value: object) -> None:
    """Units and tokens are whole numbers from zero on, or unknown."""
    reading = decode(reply_body(3, usage={"search_units": value, "total_tokens": value}))
    assert isinstance(reading, Reply)
    assert reading.usage == Usage()


def test_a_count_may_come_as_a_float() -> None:
    """1.0 search units are one."""
    reading = decode(reply_body(3, usage={"search_units": 1.0, "total_tokens": 9.0}))
    assert isinstance(reading, Reply)
    assert reading.usage == Usage(search_units=1, total_tokens=9)
    assert type(reading.usage.search_units) is int


@pytest.mark.parametrize("value", [True, "0.001", -0.001, None, [0.1]])
def test_an_ill_typed_or_negative_cost_is_missing(value: object) -> None:
    """A cost is a number from zero on, or unknown: a negative one must not earn allowance."""
    reading = decode(reply_body(3, usage={"cost": value}))
    assert isinstance(reading, Reply)
    assert reading.usage.cost_usd is None


SOUND = [(0, 0.5), (1, 0.4), (2, 0.3)]
BAD_RESULTS = {
    "null": None,
    "object": {"0": 0.5},
    "string": "0.5",
    "empty": [],
    "one missing": results(*SOUND[:2]),
    "one too many": results(*SOUND, (3, 0.1)),
    "repeated index": results((0, 0.5), (1, 0.4), (1, 0.3)),
    "repeated with a missing score": results((0, None), (0, None), (1, 0.3)),
    "negative index": results((0, 0.5), (1, 0.4), (-1, 0.3)),
    "index out of range": results((0, 0.5), (1, 0.4), (3, 0.3)),
    "boolean index": results((0, 0.5), (True, 0.4), (2, 0.3)),
    "float index": results((0, 0.5), (1.0, 0.4), (2, 0.3)),
    "string index": results((0, 0.5), ("1", 0.4), (2, 0.3)),
    "null index": results((0, 0.5), (None, 0.4), (2, 0.3)),
    "boolean score": results((0, 0.5), (1, True), (2, 0.3)),
    "string score": results((0, 0.5), (1, "0.4"), (2, 0.3)),
    "null score": results((0, 0.5), (1, None), (2, 0.3)),
    "list score": results((0, 0.5), (1, [0.4]), (2, 0.3)),
    "score under another name": [
        {"index": 0, "score": 0.5},
        *results((1, 0.4), (2, 0.3)),
    ],
    "index missing": [{"relevance_score": 0.5}, *results((1, 0.4), (2, 0.3))],
    "results not objects": [0.5, 0.4, 0.3],
    "a null result": [None, *results((1, 0.4), (2, 0.3))],
}


@pytest.mark.parametrize("name", BAD_RESULTS)
def test_results_that_break_the_contract_are_malformed(name: str) -> None:
    """No deviation of the results list ever becomes a score."""
    assert isinstance(decode(reply_body(3, results=BAD_RESULTS[name])), Malformed)


WHOLE = reply_body(3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!DOCTYPE html><html><title>502</title></html>",
        b"error code: 1015",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        WHOLE[:-1],
        WHOLE[: len(WHOLE) // 2],
        WHOLE.replace(b'"relevance_score":0.5', b'"relevance_score":NaN'),
        WHOLE.replace(b'"relevance_score":0.5', b'"relevance_score":Infinity'),
        WHOLE.replace(b'"relevance_score":0.5', b'"relevance_score":1e999'),
        b"\xff\xfe" + WHOLE,
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_no_reply_are_malformed(body: bytes) -> None:
    """HTML, truncated JSON, NaN and mere other JSON are protocol errors and crash nothing."""
    assert isinstance(decode(body), Malformed)


@pytest.mark.parametrize("model", [None, 7, "", ["m"], "a\x00b", "x" * 201])
def test_a_reply_must_name_its_model(model: object) -> None:
    """Scores of an unnamed model cannot be kept under any name."""
    assert decode(reply_body(3, model=model)) == Malformed("model is missing", 0.001)


def test_another_model_name_is_kept_as_it_is() -> None:
    """Upstream names differ from the requested one: that is no error."""
    reading = decode(reply_body(3, model="rerank-v4.0-pro"))
    assert isinstance(reading, Reply)
    assert reading.model == "rerank-v4.0-pro"


def test_a_success_that_holds_an_error_is_that_error() -> None:
    """HTTP 200 with an error has the error's own code, and may have been charged."""
    reading = decode(b'{"error":{"code":429,"message":"Provider returned error"}}')
    assert reading == Refusal(status=429, billable=True)


def test_an_error_beside_results_is_still_an_error() -> None:
    """Results of a reply that calls itself an error are not used."""
    assert isinstance(decode(reply_body(3, error={"code": 502})), Refusal)


@pytest.mark.parametrize("error", [{}, {"message": "?"}, "text", {"code": 200}, {"code": True}])
def test_an_error_in_a_success_without_a_code_is_retryable(error: object) -> None:
    """An error that does not say which is a server error."""
    reading = decode(orjson.dumps({"error": error}))
    assert isinstance(reading, Refusal)
    assert reading.status == 500


def test_a_null_error_is_none() -> None:
    """A server that always writes the key says nothing by null."""
    assert isinstance(decode(reply_body(3, error=None)), Reply)


def test_a_reading_shows_no_text() -> None:
    """Neither an answer nor what was read of it repeats the body."""
    answer = Answer(200, {"x": "canary"}, b"canary")
    assert "canary" not in repr(answer) + repr(decode(b"canary"))
