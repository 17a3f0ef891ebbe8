"""The bill: what was charged, for which pairs, and whether the scores got through."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.faults import Faults, Rule
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.kinds import KINDS
from rerank_jobs.endpoint.limits import RateLimit
from rerank_jobs.endpoint.stats import Stats, digest_pair, digest_pairs
from tests.unit.endpoint.conftest import BODY, RERANK, Send
from tests.unit.score.simulation import simulate

BILLED_ERRORS = {
    "200_error",
    "200_error_without_code",
    "200_neither",
    "504_timeout",
    "524_edge_timeout",
}
FREE_BREAKS = {"reset_before_billing", "no_answer"}


def strike_once(send: Send, kind: str, **rule: Any) -> Stats:
    """Return the counters after one request that this fault struck."""
    faults = Faults(rules=(Rule(kind=kind, seconds=0, **rule),))
    app = create_app(scorer=InstantScorer(), faults=faults)
    try:
        send(app, "POST", RERANK, json=BODY)
    except ConnectionResetError:
        assert KINDS[kind].breakage is not None
    stats: Stats = app.state.stats
    return stats


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_billed_as_it_says(send: Send, name: str) -> None:
    """Refusals are free; what ran to its end is charged, and is spoiled unless scores came."""
    stats = strike_once(send, name)
    kind = KINDS[name]
    if kind.refuse is not None:
        assert kind.billed == (name in BILLED_ERRORS)
    else:
        assert kind.billed == (name not in FREE_BREAKS)
    assert stats.faults == {name: 1}
    assert (stats.answered, stats.spoiled) == (int(kind.sound), int(kind.billed and not kind.sound))
    assert stats.refusals == ({} if kind.billed else {name: 1})
    assert stats.search_units == int(kind.billed)
    pairs = dict.fromkeys(digest_pairs("usb speaker", BODY["documents"]), 1)
    assert stats.pairs == (pairs if kind.billed else {})
    assert stats.pairs_spoiled == (pairs if kind.billed and not kind.sound else {})


def test_a_rule_can_bill_what_is_free_and_the_reverse(send: Send) -> None:
    """Whether a 503 or a reset was charged is for the rule to say."""
    assert strike_once(send, "503_provider_overloaded", billed=True).cost_usd == 0.001
    assert strike_once(send, "reset_after_billing", billed=False).cost_usd == 0
    assert strike_once(send, "score_nan", billed=False).sends() == (0, 0, 1)


MIXED = Faults(
    seed=11,
    rules=(
        Rule(kind="503_provider_overloaded", share=0.1),
        Rule(kind="429_rate_limit_exceeded", share=0.1, wait_seconds=1),
        Rule(kind="reset_before_billing", share=0.1),
        Rule(kind="reset_after_billing", share=0.1),
        Rule(kind="524_edge_timeout", share=0.1),
        Rule(kind="score_nan", share=0.1),
        Rule(kind="results_shuffled", share=0.2),
        Rule(kind="cost_missing", share=0.2),
    ),
)


async def _send_many(count: int) -> tuple[Stats, dict[str, Any], Counter[bytes], float]:
    """Send requests at once; return the server's books and the pairs that came with scores."""
    app = create_app(scorer=InstantScorer(), faults=MIXED, clock=asyncio.get_running_loop().time)
    received: Counter[bytes] = Counter()
    known_usd = 0.0
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:

        async def send_one(number: int) -> None:
            nonlocal known_usd
            documents = [f"text {number + offset}" for offset in range(3)]
            query = f"query {number % 40}"
            body = {"model": "m", "query": query, "documents": documents}
            try:
                reply = await client.post(RERANK, json=body)
            except ConnectionResetError:
                return
            if reply.status_code == 200 and b"NaN" not in reply.content:
                received.update(digest_pairs(query, documents))
                known_usd += reply.json()["usage"].get("cost", 0.001)

        for start in range(0, count, 20):
            await asyncio.gather(*(send_one(start + offset) for offset in range(20)))
        bill = (await client.get("/bill")).json()
    return app.state.stats, bill, received, known_usd


def test_the_bill_adds_up_under_faults() -> None:
    """Pairs billed less pairs spoiled are those whose scores came; units and dollars agree."""
    stats, bill, received, known_usd = simulate(_send_many(1000))
    assert sum(stats.sends()) == 1000
    assert stats.refused == sum(
        stats.faults[kind]
        for kind in ("503_provider_overloaded", "429_rate_limit_exceeded", "reset_before_billing")
    )
    assert stats.spoiled == sum(
        stats.faults[kind] for kind in ("reset_after_billing", "524_edge_timeout", "score_nan")
    )
    assert set(stats.faults) == {rule.kind for rule in MIXED.rules}
    through = Counter(stats.pairs)
    through.subtract(stats.pairs_spoiled)
    assert +through == received
    assert stats.passages == sum(stats.pairs.values()) == 3 * stats.requests
    assert stats.cost_usd == pytest.approx(known_usd + 0.001 * stats.search_units_spoiled)
    assert bill["pairs"] == {pair.hex(): times for pair, times in stats.pairs.items()}
    assert bill["pairs_spoiled"] == {p.hex(): times for p, times in stats.pairs_spoiled.items()}
    assert (bill["search_units"], bill["cost_usd"]) == (stats.search_units, stats.cost_usd)


def test_a_pair_has_one_digest_for_everyone(send: Send) -> None:
    """Given the same texts, a reader computes the digest under which the bill has the pair."""
    app = create_app(scorer=InstantScorer())
    send(app, "POST", RERANK, json={**BODY, "query": "größe", "documents": ["日本", {"text": "b"}]})
    bill = send(app, "GET", "/bill").json()
    assert set(bill["pairs"]) >= {
        digest_pair("größe", "日本").hex(),
        digest_pair("größe", "b").hex(),
    }
    assert digest_pair("größe", "日本") != digest_pair("日本", "größe")


def test_credit_falls_and_ends(send: Send) -> None:
    """``GET /key`` shows what is left of the credit; once nothing is, the answer is 402."""
    app = create_app(scorer=InstantScorer(), credit_usd=0.002)
    remaining = []
    for _ in range(2):
        assert send(app, "POST", RERANK, json=BODY).status_code == 200
        remaining.append(send(app, "GET", "/api/v1/key").json()["data"]["limit_remaining"])
    refused = send(app, "POST", RERANK, json=BODY)
    assert refused.status_code == refused.json()["error"]["code"] == 402
    assert refused.json()["error"]["metadata"]["limit_source"] == "openrouter_credits"
    assert remaining == [0.001, 0.0]
    data = send(app, "GET", "/api/v1/key").json()["data"]
    assert (data["limit"], data["usage"]) == (0.002, 0.002)
    assert app.state.stats.refusals == {"credits": 1}


def test_the_body_of_the_key_with_a_limit_keeps_to_the_contract(
    send: Send, assert_valid: Any
) -> None:
    """A key with a limit validates as one without does."""
    app = create_app(scorer=InstantScorer(), credit_usd=5.0)
    assert_valid(send(app, "GET", "/api/v1/key"), "/key", "get")


def test_tokens_are_limited_by_what_usage_reports(send: Send) -> None:
    """A window of exactly the tokens of two replies admits two requests."""
    total = send(create_app(scorer=InstantScorer()), "POST", RERANK, json=BODY).json()["usage"][
        "total_tokens"
    ]
    limit = RateLimit(tokens=2 * total, window_seconds=60)
    app = create_app(scorer=InstantScorer(), limit=limit, clock=lambda: 0.0)
    replies = [send(app, "POST", RERANK, json=BODY) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert replies[2].headers["retry-after"] == "60"
    assert f"{2 * total} tokens per 60 seconds" in replies[2].json()["error"]["message"]
    assert app.state.stats.refusals == {"rate_limit": 1}


def test_a_limit_is_given_once() -> None:
    """Two limits that may contradict each other are an error."""
    with pytest.raises(ValueError, match="not both"):
        create_app(scorer=InstantScorer(), limit=RateLimit(1), requests_per_minute=1)
