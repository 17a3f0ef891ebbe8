"""The status table, row by row."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rerank_jobs.errors import (
    CreditStop,
    EndpointStop,
    KeyStop,
    QuotaStop,
    RerankJobsError,
)
from rerank_jobs.score.dialects import refusals
from rerank_jobs.score.exchange import Action, Lost, Malformed, Problem, Refusal
from rerank_jobs.score.policy import (
    BY_AVAILABILITY,
    BY_ERROR_TYPE,
    BY_LIMIT_SOURCE,
    BY_REASON,
    Decision,
    Fail,
    Retry,
    Stop,
    Target,
    Throttled,
    decide,
    describe,
    draw_backoff,
)

NOW = 1_790_000_000.0
TARGET = Target("https://api.test/v1", "cohere/rerank-v3.5", "OPENROUTER_API_KEY")


def judge(problem: Problem, longest_wait: float = 600) -> Decision:
    return decide(problem, TARGET, longest_wait=longest_wait, now=NOW)


def stop_of(problem: Problem) -> RerankJobsError:
    decision = judge(problem)
    assert isinstance(decision, Stop)
    return decision.error


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, Fail("http_400")),
        (408, Retry()),
        (409, Retry()),
        (413, Fail("http_413")),
        (422, Fail("http_422")),
        (425, Retry()),
        (429, Throttled()),
        (499, Retry()),
        (500, Retry()),
        (502, Retry()),
        (503, Retry()),
        (504, Retry()),
        (520, Retry()),
        (524, Retry()),
        (529, Retry()),
    ],
)
def test_a_status_alone_decides(status: int, expected: Decision) -> None:
    """Without more to go by, the status is the row."""
    assert judge(Refusal(status)) == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, EndpointStop),
        (401, KeyStop),
        (402, CreditStop),
        (403, KeyStop),
        (404, EndpointStop),
        (405, EndpointStop),
        (412, EndpointStop),
        (498, KeyStop),
        (501, EndpointStop),
        (505, EndpointStop),
    ],
)
def test_a_permanent_status_stops(status: int, kind: type[RerankJobsError]) -> None:
    """What no repetition can mend ends the run, and the message says whom and what to check."""
    error = stop_of(Refusal(status))
    assert type(error) is kind
    message = str(error)
    assert "\n" not in message
    assert TARGET.url in message
    assert str(status) in message


@pytest.mark.parametrize(
    ("status", "source", "expected"),
    [
        (429, "upstream_provider_shared_pool", Throttled()),
        (429, "openrouter_shared_capacity", Throttled()),
        (429, "openrouter_admission_control", Throttled()),
        (402, "openrouter_in_flight_budget", Throttled(120.0)),
    ],
)
def test_a_passing_limit_throttles(status: int, source: str, expected: Decision) -> None:
    """A limit that passes pauses everyone, even where the status alone would stop."""
    assert judge(Refusal(status, limit_source=source)) == expected


@pytest.mark.parametrize(
    ("status", "source"),
    [
        (402, "openrouter_credits"),
        (402, "openrouter_key_limit"),
        (403, "openrouter_guardrail_budget"),
        (403, "openrouter_workspace_budget"),
        (403, "openrouter_key_limit"),
    ],
)
def test_a_spent_account_stops(status: int, source: str) -> None:
    """Credit and budgets do not come back by waiting a little; the source is named."""
    error = stop_of(Refusal(status, limit_source=source))
    assert type(error) is CreditStop
    assert source in str(error)


def test_a_budget_with_a_known_reset_says_when() -> None:
    """A 403 budget that resets at a known instant is a quota with its wait."""
    error = stop_of(Refusal(403, limit_source="openrouter_workspace_budget", wait_seconds=9000))
    assert isinstance(error, QuotaStop)
    assert error.wait_seconds == 9000


def test_a_request_beyond_the_budget_stops() -> None:
    """weight_exceeds_budget never fits, whatever the source."""
    refusal = Refusal(402, limit_source="openrouter_credits", reason="weight_exceeds_budget")
    assert type(stop_of(refusal)) is CreditStop


def test_a_daily_quota_waits_for_midnight_utc() -> None:
    """The free tier's day limit stops with the seconds to midnight, or to the given reset."""
    error = stop_of(Refusal(429, limit_source="openrouter_free_tier_daily"))
    assert isinstance(error, QuotaStop)
    assert error.wait_seconds == 86_400 - NOW % 86_400
    error = stop_of(Refusal(429, limit_source="openrouter_free_tier_daily", wait_seconds=50))
    assert isinstance(error, QuotaStop)
    assert error.wait_seconds == 50


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, "model_not_found", False),
        (400, "wrong_endpoint", False),
        (404, "no_endpoints", False),
        (404, "model_deprecated", False),
        (404, "model_unavailable_upstream", False),
        (404, "privacy_restricted", False),
        (404, "constraint_filtered", False),
        (404, "free_variant_ended", False),
        (403, "region_restricted", False),
    ],
)
def test_an_unavailable_model_is_the_jobs_fault(status: int, code: str, retryable: bool) -> None:
    """A model that cannot be had stops the job and is named."""
    error = stop_of(Refusal(status, availability=code, retryable=retryable))
    assert type(error) is EndpointStop
    assert TARGET.model in str(error)
    assert code in str(error)


def test_passing_unavailability_is_waited_for() -> None:
    """capacity_exhausted throttles, temporarily_unavailable is tried again."""
    assert judge(Refusal(429, availability="capacity_exhausted", retryable=True)) == Throttled()
    assert judge(Refusal(503, availability="temporarily_unavailable", retryable=True)) == Retry()


def test_the_endpoints_own_word_overrules_the_status() -> None:
    """Its retryable decides where it contradicts the row."""
    assert judge(Refusal(404, retryable=True)) == Retry()
    assert type(stop_of(Refusal(503, retryable=False))) is EndpointStop


def test_an_unknown_model_in_a_plain_400_stops() -> None:
    """A 400 that names the model as unknown is about the job, not the content."""
    error = stop_of(Refusal(400, model_unknown=True))
    assert type(error) is EndpointStop
    assert TARGET.model in str(error)


def test_moderation_fails_the_content() -> None:
    """A moderated input is one request's matter, not the key's."""
    assert judge(Refusal(403, moderated=True)) == Fail("moderation")


@pytest.mark.parametrize(
    "error_type",
    ["context_length_exceeded", "string_too_long", "invalid_request", "content_policy_violation"],
)
def test_a_named_content_error_is_the_failure_code(error_type: str) -> None:
    """Where the endpoint names the cause, the failed passages carry it."""
    assert judge(Refusal(400, error_type=error_type)) == Fail(error_type)


def test_a_hint_is_the_least_wait() -> None:
    """Throttles pause for the hint; an overload with a hint pauses everyone, too."""
    assert judge(Refusal(429, wait_seconds=17)) == Throttled(17)
    assert judge(Refusal(503, wait_seconds=17)) == Throttled(17)
    assert judge(Refusal(529, wait_seconds=17)) == Throttled(17)
    assert judge(Refusal(502, wait_seconds=17)) == Retry(17)
    in_flight = Refusal(402, limit_source="openrouter_in_flight_budget", wait_seconds=30)
    assert judge(in_flight) == Throttled(30)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_wait_beyond_patience_stops_and_names_it(status: int) -> None:
    """A run does not sleep for longer than its patience: it stops, resumable, with the wait."""
    decision = judge(Refusal(status, wait_seconds=601))
    assert isinstance(decision, Stop)
    assert isinstance(decision.error, QuotaStop)
    assert decision.error.wait_seconds == 601


@pytest.mark.parametrize(
    "problem",
    [Malformed("body is not JSON"), Lost("timeout", reached=True), Lost("no connection", False)],
)
def test_what_is_no_answer_is_tried_again(problem: Problem) -> None:
    """Broken replies and connections are never a verdict on the request."""
    assert judge(problem) == Retry()


def test_every_status_has_a_decision() -> None:
    """No three-digit status is undefined."""
    for status in range(300, 600):
        assert isinstance(judge(Refusal(status)), Retry | Throttled | Fail | Stop)


def test_every_known_word_has_a_row() -> None:
    """What the reader may report, the table decides."""
    assert set(BY_LIMIT_SOURCE) == refusals.LIMIT_SOURCES
    assert set(BY_REASON) == refusals.REASONS
    assert set(BY_AVAILABILITY) == refusals.AVAILABILITY
    assert set(BY_ERROR_TYPE) <= set(refusals.STATUS_OF_TYPE)


@pytest.mark.parametrize(
    ("status", "error_type", "kind"),
    [
        (429, "insufficient_quota", CreditStop),
        (400, "invalid_api_key", KeyStop),
        (400, "model_not_found", EndpointStop),
        (400, "AccessDeniedException", KeyStop),
        (400, "ExpiredTokenException", KeyStop),
        (400, "UnrecognizedClientException", KeyStop),
        (400, "ServiceQuotaExceededException", QuotaStop),
    ],
)
def test_an_error_type_that_says_more_decides(
    status: int, error_type: str, kind: type[RerankJobsError]
) -> None:
    """Some statuses are those of a content error, and the type says that it is none."""
    assert type(stop_of(Refusal(status, error_type=error_type))) is kind


def test_throttling_may_come_as_a_400() -> None:
    """AWS's older services throttle with 400 and a type."""
    assert judge(Refusal(400, error_type="ThrottlingException")) == Throttled()


def test_a_refused_parameter_is_the_jobs_fault() -> None:
    """No request of the job can succeed: it stops and names the options."""
    error = stop_of(Refusal(422, parameter_refused=True))
    assert type(error) is EndpointStop
    assert "endpoint.options" in str(error)
    assert judge(Refusal(500, parameter_refused=True)) == Retry()


def test_a_failure_keeps_what_bisecting_needs() -> None:
    """The guilty document and the matter of length reach the decision."""
    refusal = Refusal(400, index=3, too_long=True)
    assert judge(refusal) == Fail("http_400", index=3, too_long=True)


def test_a_dialect_may_mean_otherwise_by_a_status() -> None:
    """Its own row goes before the table's."""
    decision = decide(
        Refusal(424), TARGET, longest_wait=600, now=NOW, by_status={424: Action.RETRY}
    )
    assert decision == Retry()
    assert type(stop_of(Refusal(424))) is EndpointStop


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Refusal(502), "502"),
        (Refusal(402, limit_source="openrouter_credits"), "402 openrouter_credits"),
        (Refusal(404, availability="no_endpoints"), "404 no_endpoints"),
        (Refusal(400, error_type="invalid_request"), "400 invalid_request"),
        (Lost("timeout", reached=True), "timeout"),
        (Malformed("body is not JSON"), "body is not JSON"),
    ],
)
def test_a_cause_is_described_in_a_few_words(problem: Problem, words: str) -> None:
    """Messages name the status and the most telling word."""
    assert describe(problem) == words


def test_backoff_is_full_jitter_under_a_cap() -> None:
    """Waits are uniform from zero to a bound that doubles up to 20 s."""
    rng = random.Random(5)
    for tries, bound in [(1, 1.0), (2, 2.0), (5, 16.0), (6, 20.0), (1000, 20.0)]:
        draws = [draw_backoff(tries, rng) for _ in range(2000)]
        assert 0 <= min(draws) < 0.05 * bound
        assert 0.95 * bound < max(draws) <= bound
        assert sum(draws) / len(draws) == pytest.approx(bound / 2, rel=0.1)


def test_decisions_are_values() -> None:
    """The same problem gives the same decision."""
    problems: list[Any] = [Refusal(429, wait_seconds=3), Refusal(500), Malformed("x")]
    assert [judge(p) for p in problems] == [judge(p) for p in problems]
