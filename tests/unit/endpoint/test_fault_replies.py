"""Broken replies are broken in exactly the way that their names say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.broken_replies import HARMLESS, SPOILERS
from rerank_jobs.endpoint.faults import Faults, Rule
from rerank_jobs.endpoint.instant import InstantScorer
from tests.unit.endpoint.conftest import RERANK, Send

N = 6
BODY = {"model": "m", "query": "q", "documents": [f"text {number}" for number in range(N)]}

Body = dict[str, Any]


def indexes(body: Body) -> list[Any]:
    return [result.get("index", "missing") for result in body["results"]]


def scores(body: Body) -> list[Any]:
    return [result.get("relevance_score", "missing") for result in body["results"]]


def one_index(test: Callable[[Any], bool]) -> Callable[[Body], bool]:
    return lambda body: (
        sum(test(index) for index in indexes(body)) == 1
        and len({index for index in indexes(body) if type(index) is int} & set(range(N))) == N - 1
    )


def one_score(test: Callable[[Any], bool]) -> Callable[[Body], bool]:
    return lambda body: (
        sum(test(score) for score in scores(body)) == 1
        and sorted(indexes(body)) == list(range(N))
        and sum(type(score) is float and math.isfinite(score) for score in scores(body)) == N - 1
    )


BROKEN: dict[str, Callable[[Body], bool]] = {
    "index_missing": one_index(lambda index: index == "missing"),
    "index_null": one_index(lambda index: index is None),
    "index_text": one_index(lambda index: index == "0"),
    "index_boolean": one_index(lambda index: index is False),
    "index_fraction": one_index(lambda index: index == 0.5),
    "index_negative": one_index(lambda index: index == -1),
    "index_huge": one_index(lambda index: index == 2**63),
    "index_out_of_range": one_index(lambda index: index == N),
    "index_repeated": lambda body: len(indexes(body)) == N and len(set(indexes(body))) == N - 1,
    "score_missing": one_score(lambda score: score == "missing"),
    "score_null": one_score(lambda score: score is None),
    "score_text": one_score(lambda score: score == "0.5"),
    "score_boolean": one_score(lambda score: score is True),
    "score_list": one_score(lambda score: score == [0.5]),
    "score_nan": one_score(lambda score: score != score),  # noqa: PLR0124 - what NaN is
    "score_infinity": one_score(lambda score: score == math.inf),
    "score_minus_infinity": one_score(lambda score: score == -math.inf),
    "score_overflow": one_score(lambda score: score == math.inf),
    "results_missing": lambda body: "results" not in body and "error" not in body,
    "results_null": lambda body: body["results"] is None,
    "results_empty": lambda body: body["results"] == [],
    "results_text": lambda body: body["results"] == "none",
    "results_object": lambda body: isinstance(body["results"], dict),
    "results_of_numbers": lambda body: all(type(item) is float for item in body["results"]),
    "results_too_few": lambda body: len(set(indexes(body))) == len(indexes(body)) == N - 1,
    "results_too_many": lambda body: len(indexes(body)) == N + 1,
    "model_missing": lambda body: "model" not in body and len(body["results"]) == N,
    "model_null": lambda body: body["model"] is None and len(body["results"]) == N,
}
HARMLESS_SIGNS: dict[str, Callable[[Body], bool]] = {
    "results_shuffled": lambda body: scores(body) != sorted(scores(body), reverse=True),
    "results_without_documents": lambda body: "document" not in body["results"][0],
    "results_with_unknown_keys": lambda body: "object" in body and "logit" in body["results"][0],
    "usage_missing": lambda body: "usage" not in body,
    "usage_null": lambda body: body["usage"] is None,
    "usage_text": lambda body: body["usage"] == "1",
    "cost_missing": lambda body: set(body["usage"]) == {"search_units", "total_tokens"},
    "cost_text": lambda body: body["usage"]["cost"] == "0.001",
    "cost_negative": lambda body: body["usage"]["cost"] == -1,
    "units_missing": lambda body: set(body["usage"]) == {"cost", "total_tokens"},
    "units_fraction": lambda body: body["usage"]["search_units"] == 1.5,
    "model_other": lambda body: body["model"] == "rerank-v3.5-2099-01-01",
    "keys_duplicated": lambda body: len(body["results"]) == N,
}
RAW: dict[str, Callable[[bytes, bytes], bool]] = {
    "body_bom": lambda raw, true: raw == b"\xef\xbb\xbf" + true,
    "body_latin_1": lambda raw, true: b"Coh\xe9re" in raw and b"text 0" in true,
    "body_cut": lambda raw, true: 0 < len(raw) < len(true) and true.startswith(raw),
    "body_empty": lambda raw, _true: raw == b"",
    "body_null": lambda raw, _true: raw == b"null",
    "body_array": lambda raw, true: json.loads(raw) == json.loads(true)["results"],
    "body_html": lambda raw, _true: raw.startswith(b"<!DOCTYPE html>"),
    "body_text": lambda raw, _true: raw == b"upstream connect error",
}


def ask(send: Send, name: str | None, body: dict[str, Any] = BODY) -> httpx.Response:
    rules = () if name is None else (Rule(kind=name),)
    app = create_app(
        scorer=InstantScorer(), faults=Faults(seed=3, rules=rules), wall_clock=lambda: 1.79e9
    )
    return send(app, "POST", RERANK, json=body)


def test_every_broken_reply_is_described_here() -> None:
    """No kind of broken reply goes untested."""
    assert BROKEN.keys() | HARMLESS_SIGNS.keys() | RAW.keys() == SPOILERS.keys()
    assert HARMLESS_SIGNS.keys() == HARMLESS


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_reply_is_what_its_name_says(send: Send, name: str) -> None:
    """The one thing that the name says is wrong, in a reply with status 200."""
    reply = ask(send, name)
    assert reply.status_code == 200
    assert BROKEN[name](json.loads(reply.content))


@pytest.mark.parametrize("name", HARMLESS_SIGNS)
def test_a_harmless_oddity_keeps_every_score(send: Send, name: str) -> None:
    """What is odd but valid still gives each index its true score."""
    true = ask(send, None).json()
    odd = json.loads(ask(send, name).content)
    assert HARMLESS_SIGNS[name](odd)
    by_index = [dict(zip(indexes(body), scores(body), strict=True)) for body in (true, odd)]
    assert by_index[0] == by_index[1]


@pytest.mark.parametrize("name", RAW)
def test_a_broken_body_is_what_its_name_says(send: Send, name: str) -> None:
    """The bytes are those of the true reply, changed as the name says."""
    raw, true = ask(send, name).content, ask(send, None).content
    assert RAW[name](raw, true)
    if name not in {"body_null", "body_array"}:
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|codec|BOM|Invalid"):
            json.loads(raw.decode("utf-8"))


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("score_nan", b":NaN"),
        ("score_infinity", b":Infinity"),
        ("score_minus_infinity", b":-Infinity"),
        ("score_overflow", b":1e999"),
    ],
)
def test_scores_beyond_json_are_bare_tokens(send: Send, name: str, token: bytes) -> None:
    """NaN and its kin stand in the body without quotes, as careless servers write them."""
    assert ask(send, name).content.count(token) == 1


def test_duplicated_keys_hold_the_true_score_last(send: Send) -> None:
    """Each score stands twice; readers that keep the last one have the true one."""
    assert ask(send, "keys_duplicated").content.count(b'"relevance_score":') == 2 * N


@pytest.mark.parametrize("name", SPOILERS)
def test_a_single_result_can_be_broken_too(send: Send, name: str) -> None:
    """A request of one document gets a broken reply as well, not a crash."""
    assert ask(send, name, {**BODY, "documents": ["one"]}).status_code == 200
