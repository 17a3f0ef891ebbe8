"""Ten thousand mutated replies and errors: the decoder's verdict is the oracle's, every time."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_jobs.score import DIALECTS
from rerank_jobs.score.exchange import Answer, Malformed, Reading, Refusal, Reply
from rerank_jobs.score.policy import Fail, Retry, Stop, Target, Throttled, decide
from tests.property.reply_mutations import MUTATIONS, Draft, make_draft
from tests.property.reply_oracle import CONTRACTS, Verdict, expect

NOW = 1_790_000_000.0
EACH = 1_112
"""Examples of each dialect: over ten thousand in all."""

BOUNDED = settings(
    max_examples=EACH, derandomize=True, deadline=None, database=None, print_blob=False
)


MAYBE = st.sampled_from([*sorted(MUTATIONS), *[""] * (len(MUTATIONS) // 2)])
"""The name of a mutation, in a third of the cases of none; cheaper to draw than a list."""


def judge(reading: Reading) -> Verdict:
    """Return what the decoder said in the oracle's words."""
    match reading:
        case Reply():
            usage = reading.usage
            names = (reading.response_id, reading.model, reading.provider)
            costs = (usage.search_units, usage.total_tokens, usage.cost_usd)
            return "scored", list(reading.scores), *costs, *names
        case Refusal():
            return "refused", reading.status
        case Malformed():
            return "broken", reading.cost_usd


def mutate(api: str, n: int, names: list[str], seed: int) -> Draft:
    rng = random.Random(seed)
    draft = make_draft(api, n, rng)
    for name in names:
        MUTATIONS[name][0](draft, rng)
    return draft


def compare(draft: Draft, n: int) -> Verdict:
    """Have decoder and oracle judge one answer; return the verdict that both came to."""
    body = draft.body()
    expected = expect(draft.api, draft.status, draft.headers, body, n)
    answer = Answer(draft.status, draft.headers, body)
    assert judge(DIALECTS[draft.api].decode(answer, n, NOW)) == expected, body[:2000]
    return expected


def test_there_are_ten_thousand_examples_over_all_dialects() -> None:
    """Every dialect has its contract in the oracle, and its share of the examples."""
    assert set(CONTRACTS) == set(DIALECTS)
    assert EACH * len(CONTRACTS) >= 10_000
    assert len(MUTATIONS) >= 40


@pytest.mark.parametrize("api", CONTRACTS)
def test_the_verdict_on_every_mutated_reply_is_the_oracles(api: str) -> None:
    """Up to three mutations at once: same verdict, same scores, same money, no crash."""
    examples, verdicts, used = 0, Counter[str](), Counter[str]()

    @BOUNDED
    @given(st.integers(1, 6), st.tuples(MAYBE, MAYBE, MAYBE), st.integers(0, 2**32))
    def check(n: int, drawn: tuple[str, str, str], seed: int) -> None:
        nonlocal examples
        names = [name for name in drawn if name]
        verdicts[compare(mutate(api, n, names, seed), n)[0]] += 1
        used.update(names)
        examples += 1

    check()
    assert examples >= EACH
    assert set(used) == set(MUTATIONS)
    assert min(verdicts[kind] for kind in ("scored", "refused", "broken")) >= 5


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_alone_leads_to_its_verdict(name: str) -> None:
    """The name of a mutation says what must come of it; the oracle is held to that, too."""
    expected = MUTATIONS[name][1]
    for api in CONTRACTS:
        for seed in range(8):
            draft = mutate(api, 3, [name], seed)
            verdict = compare(draft, 3)
            # A bare list has no names, counts or keys to go odd, and a key behind it breaks it.
            if CONTRACTS[api]["list"] is not None:
                assert expected is None or verdict[0] == expected, api


WORDS = ["rate_limit_exceeded", "openrouter_credits", "no_endpoints", "ThrottlingException", "x"]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 429, 503, 2**70, 1.5, 1e300, "429", "", "NaN", "soon", *WORDS]),
    st.sampled_from(
        [
            "document at index 3 is too long",
            "unknown field: parameter 'x'",
            "model 'x' not found",
            '{"message":"index 2"}',
            "{" * 50,
            "\u0000" * 20,
        ]
    ),
)
KEYS = st.sampled_from(
    [
        *("error", "code", "message", "metadata", "availability", "detail", "type", "__type"),
        *("error_type", "limit_source", "reason", "retryable", "retry_after", "headers", "param"),
        *("loc", "documents", "raw", "resets_at", "Retry-After", "http_status", "Message"),
    ]
)
ERRORS = st.recursive(
    JUNK,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=600, derandomize=True, deadline=None, database=None)
@given(
    st.sampled_from(sorted(DIALECTS)),
    st.sampled_from([200, *range(300, 600)]),
    ERRORS,
    st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-amzn-errortype"]),
    st.sampled_from(["", "5", "-1", "nan", "1e309", "9" * 400, "a:b#c", "Wed, 99 Foo"]),
)
def test_every_error_body_has_a_decision(
    api: str, status: int, error: Any, header: str, hint: str
) -> None:
    """Whatever stands in an error, it is read without a crash and something is done about it."""
    try:
        body = orjson.dumps({"error": error} if status == 200 else error)
    except orjson.JSONEncodeError:
        body = repr(error).encode("utf-8", "replace")
    reading = DIALECTS[api].decode(Answer(status, {header: hint}, body), 5, NOW)
    assert isinstance(reading, Refusal | Malformed)
    if isinstance(reading, Refusal):
        assert reading.index is None or 0 <= reading.index < 5
        assert reading.wait_seconds is None or 0 <= reading.wait_seconds <= 32 * 86_400
    decision = decide(reading, Target("u", "m", "K"), longest_wait=600, now=NOW)
    assert isinstance(decision, Retry | Throttled | Fail | Stop)
