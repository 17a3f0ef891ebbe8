"""What to do about a send that brought no valid reply: a table of causes, read by one function.

The table follows OpenRouter's error reference, with what other servers mean otherwise; where an
answer names its cause (``metadata.limit_source``, ``availability``, an error type), the cause goes
before the status. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rerank_jobs.errors import (
    CreditStop,
    EndpointStop,
    KeyStop,
    QuotaStop,
    RerankJobsError,
)
from rerank_jobs.score.exchange import Action, Lost, Malformed, Problem, Refusal

__all__ = [
    "Decision",
    "Fail",
    "Retry",
    "Stop",
    "Target",
    "Throttled",
    "decide",
    "describe",
    "draw_backoff",
]

BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 20.0
"""Of one request alone: outages and throttling, which concern all, have longer waits elsewhere."""

IN_FLIGHT_BUDGET_SECONDS = 120.0
"""The wait that OpenRouter names for a budget held by requests in flight, where it names none."""

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Send this request again, not before ``after`` seconds."""

    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Throttled:
    """Nobody sends for ``after`` seconds (``None``: no hint); then send this request again."""

    after: float | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """The endpoint refuses the content of this request: its passages fail with ``code``.

    ``index`` names the guilty one where the endpoint does; ``too_long``: a shorter one may pass.
    """

    code: str
    index: int | None = None
    too_long: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """No request of this job can succeed now: end the run with ``error``."""

    error: RerankJobsError


Decision = Retry | Throttled | Fail | Stop


@dataclass(frozen=True, slots=True)
class Target:
    """Whom the messages speak of."""

    url: str
    model: str
    key_place: str


BY_STATUS: Mapping[int, Action] = {
    400: Action.FAIL,
    401: Action.KEY,
    402: Action.CREDIT,
    403: Action.KEY,
    404: Action.JOB,
    408: Action.RETRY,
    409: Action.RETRY,
    412: Action.JOB,
    413: Action.FAIL,
    422: Action.FAIL,
    425: Action.RETRY,
    429: Action.THROTTLE,
    498: Action.KEY,
    499: Action.RETRY,
    500: Action.RETRY,
    501: Action.JOB,
    502: Action.RETRY,
    503: Action.OVERLOAD,
    504: Action.RETRY,
    505: Action.JOB,
    524: Action.RETRY,
    529: Action.OVERLOAD,
}
"""Any other 5xx is RETRY, anything else is JOB: nothing unheard of is repeated or passed over."""

BY_LIMIT_SOURCE: Mapping[str, Action] = {
    "upstream_provider_shared_pool": Action.THROTTLE,
    "openrouter_shared_capacity": Action.THROTTLE,
    "openrouter_admission_control": Action.THROTTLE,
    "openrouter_in_flight_budget": Action.THROTTLE,
    "openrouter_free_tier_daily": Action.QUOTA,
    "openrouter_credits": Action.CREDIT,
    "openrouter_key_limit": Action.CREDIT,
    "openrouter_guardrail_budget": Action.CREDIT,
    "openrouter_workspace_budget": Action.CREDIT,
}

BY_REASON: Mapping[str, Action] = {
    "weight_exceeds_budget": Action.CREDIT,
    "in_flight_budget_exhausted": Action.THROTTLE,
}

BY_AVAILABILITY: Mapping[str, Action] = {
    "model_not_found": Action.JOB,
    "wrong_endpoint": Action.JOB,
    "no_endpoints": Action.JOB,
    "model_deprecated": Action.JOB,
    "model_unavailable_upstream": Action.JOB,
    "privacy_restricted": Action.JOB,
    "constraint_filtered": Action.JOB,
    "free_variant_ended": Action.JOB,
    "region_restricted": Action.JOB,
    "capacity_exhausted": Action.THROTTLE,
    "temporarily_unavailable": Action.OVERLOAD,
}

BY_ERROR_TYPE: Mapping[str, Action] = {
    "insufficient_quota": Action.CREDIT,
    "invalid_api_key": Action.KEY,
    "model_not_found": Action.JOB,
    "AccessDeniedException": Action.KEY,
    "ExpiredTokenException": Action.KEY,
    "ServiceQuotaExceededException": Action.QUOTA,
    "ThrottlingException": Action.THROTTLE,
    "UnrecognizedClientException": Action.KEY,
}
"""Types that say more than the status with which they come."""

_AGAIN = frozenset({Action.RETRY, Action.OVERLOAD, Action.THROTTLE})


def decide(
    problem: Problem,
    target: Target,
    *,
    longest_wait: float,
    now: float,
    by_status: Mapping[int, Action] = MappingProxyType({}),
) -> Decision:
    """Return what to do about ``problem``; pure, and defined for every status.

    ``by_status`` holds what a dialect means by a status otherwise than ``BY_STATUS``. A wait of
    more than ``longest_wait`` seconds is a ``QuotaStop`` that names it: a run that sleeps that long
    holds a slot for nothing. ``now`` is in seconds since the epoch.
    """
    if not isinstance(problem, Refusal):
        return Retry()
    action = _look_up(problem, by_status)
    if action is Action.FAIL:
        return Fail(_failure_code(problem), problem.index, problem.too_long)
    if action not in _AGAIN:
        return Stop(_stop(action, problem, target, now))
    wait = problem.wait_seconds
    if wait is None and BY_LIMIT_SOURCE.get(problem.limit_source or "") is Action.THROTTLE:
        wait = IN_FLIGHT_BUDGET_SECONDS if problem.status == 402 else None
    if wait is not None and wait > longest_wait:
        return Stop(_stop(Action.QUOTA, problem, target, now))
    if action is Action.THROTTLE or (action is Action.OVERLOAD and wait is not None):
        return Throttled(wait)
    return Retry(wait or 0.0)


def describe(problem: Problem) -> str:
    """Return the cause in a few words: a status, closed vocabulary, never free text."""
    if isinstance(problem, Lost | Malformed):
        return problem.reason
    words = (problem.limit_source, problem.availability, problem.error_type)
    return " ".join([str(problem.status), *[word for word in words if word][:1]])


def draw_backoff(
    tries: int,
    rng: random.Random,
    *,
    base: float = BACKOFF_BASE_SECONDS,
    cap: float = BACKOFF_CAP_SECONDS,
) -> float:
    """Return a full-jitter wait in seconds after ``tries`` failed tries (1 or more).

    Uniform in [0, min(cap, base * 2**tries)]: AWS Architecture Blog, "Exponential Backoff And
    Jitter".
    """
    return rng.uniform(0.0, min(cap, base * 2.0 ** min(tries, 32)))


def _look_up(refusal: Refusal, by_status: Mapping[int, Action]) -> Action:
    if refusal.reason is not None:
        return BY_REASON[refusal.reason]
    if refusal.limit_source is not None:
        return BY_LIMIT_SOURCE[refusal.limit_source]
    unheard_of = Action.RETRY if 500 <= refusal.status < 600 else Action.JOB
    action = by_status.get(refusal.status) or BY_STATUS.get(refusal.status, unheard_of)
    action = BY_ERROR_TYPE.get(refusal.error_type or "", action)
    if refusal.availability is not None:
        action = BY_AVAILABILITY[refusal.availability]
    if refusal.retryable is not None and refusal.retryable != (action in _AGAIN):
        return Action.RETRY if refusal.retryable else Action.JOB
    if refusal.model_unknown or (refusal.parameter_refused and action is Action.FAIL):
        return Action.JOB
    if refusal.moderated and refusal.status == 403:
        return Action.FAIL
    return action


def _failure_code(refusal: Refusal) -> str:
    if refusal.moderated:
        return "moderation"
    return refusal.error_type or f"http_{refusal.status}"


def _stop(action: Action, refusal: Refusal, target: Target, now: float) -> RerankJobsError:
    cause = describe(refusal)
    if action is Action.KEY:
        return KeyStop(
            f"{target.url} refused the API key ({cause}): put a valid key into"
            f" {target.key_place} and run again"
        )
    if action is Action.QUOTA:
        wait = refusal.wait_seconds
        if wait is None and refusal.limit_source == "openrouter_free_tier_daily":
            wait = DAY_SECONDS - now % DAY_SECONDS  # it resets at midnight UTC
        return _quota_stop(cause, wait, target)
    if action is Action.CREDIT:
        if refusal.wait_seconds is not None and refusal.status == 403:
            return _quota_stop(cause, refusal.wait_seconds, target)
        return CreditStop(
            f"{target.url}: the account is out of credit or at its spending limit ({cause}):"
            f" add credit, or raise the limit of the key in {target.key_place}, and run again"
        )
    if refusal.parameter_refused:
        return EndpointStop(
            f"{target.url} refuses a field of every request ({cause}): check endpoint.dialect,"
            " endpoint.model and endpoint.options"
        )
    return EndpointStop(
        f"{target.url} cannot serve the model {target.model} ({cause}):"
        " check endpoint.url and endpoint.model"
    )


def _quota_stop(cause: str, wait: float | None, target: Target) -> QuotaStop:
    when = "later" if wait is None else f"in {wait:.0f} s"
    return QuotaStop(f"{target.url} asks to wait ({cause}): run again {when}", wait_seconds=wait)
