"""Refused content: the guilty passage alone fails, everything else is scored."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from rerank_jobs.errors import EndpointStop
from rerank_jobs.model import Passage, Request, Scored
from rerank_jobs.score import ScoreSettings
from tests.unit.score.fakes import (
    DOCUMENT,
    REMOTE,
    FakeEndpoint,
    Run,
    Script,
    make_request,
    make_requests,
    refuse,
    reply_body,
    run,
)

POISON = f"{DOCUMENT}-7-42"
WORDS = {400: "context_length_exceeded", 413: "payload_too_large", 422: "unprocessable"}


def poisonous(*poison: str, status: int = 400, name: str = "", longest: int = 10**9) -> Script:
    """Refuse requests that hold a poisonous text, or one longer than ``longest``.

    ``name``: the message names the first guilty one (``right``), the first one (``wrong``) or none.
    """

    def answer(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        texts = endpoint.documents
        bad = [i for i, text in enumerate(texts) if text in poison or len(text) > longest]
        if not bad:
            units = -(-len(texts) // 100)
            usage = {"search_units": units, "cost": units * 0.001}
            return httpx.Response(200, content=reply_body(len(texts), usage=usage))
        index = {"right": bad[0], "wrong": 0}.get(name)
        trouble = "cannot be processed" if status == 422 else "is too long"
        message = f"{'input' if index is None else f'document at index {index}'} {trouble}"
        error = {"code": status, "message": message, "metadata": {"error_type": WORDS[status]}}
        return httpx.Response(status, json={"error": error})

    return answer


def a_thousand(per_request: int) -> list[Request]:
    """Return 1,000 passages as requests of ``per_request``; POISON is one of them."""
    if per_request == 1000:
        return [replace(make_request(7, 1000), search_units=10)]
    return [make_request(number, per_request) for number in range(1000 // per_request)]


def scored_texts(done: Run) -> list[str]:
    scored = [outcome for outcome in done.outcomes if isinstance(outcome, Scored)]
    return [passage.text for outcome in scored for passage in outcome.request.passages]


def failed_texts(done: Run) -> list[str]:
    return [passage.text for failed in done.failed for passage in failed.request.passages]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("per_request", [100, 1000])
def test_one_poisonous_document_among_a_thousand_fails_alone(status: int, per_request: int) -> None:
    """999 are scored, 1 fails with its code, and that costs at most 8 units more than planned."""
    done = run(poisonous(POISON, status=status), a_thousand(per_request))
    assert failed_texts(done) == [POISON]
    assert [failed.code for failed in done.failed] == [WORDS[status]]
    assert len(scored_texts(done)) == len(set(scored_texts(done))) == 999
    assert done.result.totals.search_units <= 10 + 8
    assert done.result.stop is None


def test_a_named_passage_costs_nothing_more() -> None:
    """Where the error names the right index, the other passages go in one request again."""
    done = run(poisonous(POISON, name="right"), a_thousand(100))
    assert failed_texts(done) == [POISON]
    assert len(set(scored_texts(done))) == 999
    assert done.result.totals.search_units == 10
    assert done.result.totals.refused == 2


def test_a_wrongly_named_passage_costs_one_unit_more_than_none() -> None:
    """An endpoint that always names the first passage is believed once."""
    done = run(poisonous(POISON, name="wrong"), a_thousand(100))
    assert failed_texts(done) == [POISON]
    assert len(set(scored_texts(done))) == 999
    assert done.result.totals.search_units <= 10 + 8


def test_several_poisonous_documents_fail_each_alone() -> None:
    """Also neighbours, and the first and last of a request, are told apart from the innocent."""
    poison = [f"{DOCUMENT}-{number}-{index}" for number in (0, 3) for index in (0, 1, 57, 99)]
    done = run(poisonous(*poison, status=422), a_thousand(100))
    assert sorted(failed_texts(done)) == sorted(poison)
    assert len(set(scored_texts(done))) == 992


def test_the_budget_holds_while_a_request_is_split() -> None:
    """Parts of a refused request are paid from the same allowance: what is over it is not sent."""
    done = run(poisonous(POISON), a_thousand(100), allowance_usd=0.0115)
    assert done.result.totals.cost_usd <= 0.0115
    assert done.result.stop is not None


def shorten(passage: Passage, parts: int) -> list[str]:
    size = -(-len(passage.text) // parts)
    return [passage.text[at : at + size] for at in range(0, len(passage.text), size)]


def long_requests() -> list[Request]:
    """Return 5 requests of 20 passages; passage 3 of request 2 has 1,000 characters."""
    requests = [make_request(number, 20) for number in range(5)]
    passages = list(requests[2].passages)
    passages[3] = replace(passages[3], text="x" * 1000)
    return [*requests[:2], replace(requests[2], passages=tuple(passages)), *requests[3:]]


@pytest.mark.parametrize(("longest", "parts"), [(600, 2), (300, 4), (70, 16)])
def test_a_passage_that_is_too_long_is_cut_further(longest: int, parts: int) -> None:
    """A passage refused for its length is sent in 2, 4, 8 or 16 pieces; its best piece counts."""
    done = run(poisonous(longest=longest), long_requests(), shorten=shorten)
    assert done.failed == []
    assert len(set(scored_texts(done))) == 100
    (cut,) = [o for o in done.outcomes if isinstance(o, Scored) and o.parts > 1]
    assert cut.parts == parts
    assert cut.scores == (parts / (parts + 1),)
    assert [len(passage.text) for passage in cut.request.passages] == [1000]


def test_a_passage_that_stays_too_long_fails() -> None:
    """After sixteen pieces were refused too, the passage fails with its code."""
    done = run(poisonous(longest=40), long_requests(), shorten=shorten)
    assert failed_texts(done) == ["x" * 1000]
    assert done.failed[0].code == "context_length_exceeded"
    assert len(set(scored_texts(done))) == 99


def test_a_content_error_that_is_not_about_length_cuts_nothing() -> None:
    """Only length is mended by cutting: a 422 about content fails its passage as it is."""
    done = run(poisonous(POISON, status=422), a_thousand(100), shorten=shorten)
    assert failed_texts(done) == [POISON]


def test_a_listwise_request_is_not_split() -> None:
    """Where scores depend on the whole request, all of it fails."""
    settings = replace(ScoreSettings.from_endpoint(REMOTE, None), splits=False)
    done = run(poisonous(POISON), a_thousand(100), settings=settings, shorten=shorten)
    assert len(failed_texts(done)) == 100
    assert len(set(scored_texts(done))) == 900


def test_moderated_content_is_split_too() -> None:
    """A 403 about flagged input fails the flagged passage and no other."""

    def moderate(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        if POISON in endpoint.documents:
            return refuse(403, {"reasons": ["violence"], "flagged_input": POISON})
        return httpx.Response(200, content=reply_body(len(endpoint.documents)))

    done = run(moderate, a_thousand(100))
    assert failed_texts(done) == [POISON]
    assert done.failed[0].code == "moderation"


def test_poison_behind_server_errors_is_still_found() -> None:
    """Parts of a refused request are retried like any request."""
    inner = poisonous(POISON)

    def flaky(endpoint: FakeEndpoint, number: int) -> httpx.Response:
        answer = refuse(502) if endpoint.rng.random() < 0.3 else inner(endpoint, number)
        assert isinstance(answer, httpx.Response)
        return answer

    done = run(flaky, a_thousand(100))
    assert failed_texts(done) == [POISON]
    assert len(set(scored_texts(done))) == 999


def test_an_endpoint_that_refuses_every_content_is_stopped_early() -> None:
    """When 20 passages are refused alone and none is scored, the job itself is at fault."""

    def refuse_all(_endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return refuse(400)

    done = run(refuse_all, make_requests(1000))
    assert isinstance(done.result.stop, EndpointStop)
    assert done.endpoint.tries.total() <= 120
    assert done.result.totals.cost_usd == 0


def test_twenty_first_requests_with_a_poison_each_do_not_stop_the_job() -> None:
    """That every first answer is a refusal is no proof against the job: its halves are scored."""
    poison = [f"{DOCUMENT}-{number}-1" for number in range(40)]
    done = run(poisonous(*poison), [make_request(number, 30) for number in range(40)])
    assert done.result.stop is None
    assert sorted(failed_texts(done)) == sorted(poison)
    assert len(set(scored_texts(done))) == 40 * 29
