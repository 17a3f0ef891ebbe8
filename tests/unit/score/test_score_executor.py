"""The executor against a scripted endpoint on simulated time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from rerank_jobs.errors import (
    BudgetStop,
    CreditStop,
    EndpointStop,
    Interrupted,
    KeyStop,
    QuotaStop,
)
from rerank_jobs.model import Outcome, Request, Scored
from rerank_jobs.score import ScoreSettings
from rerank_jobs.score.lanes import READ_AHEAD
from tests.unit.score.fakes import (
    KEY,
    REMOTE,
    FakeEndpoint,
    Run,
    make_request,
    make_requests,
    ok,
    refuse,
    run,
    score,
)
from tests.unit.score.simulation import EPOCH, simulate


def answer_ok(_endpoint: FakeEndpoint, _number: int) -> httpx.Response:
    return ok()


def test_every_request_gets_one_outcome_with_scores_joined_by_index() -> None:
    """With an endpoint that answers, each request is sent once and scored in passage order."""
    done = run(answer_ok, make_requests(50))
    assert done.numbers == list(range(50))
    assert done.result.stop is None
    assert done.endpoint.tries.total() == 50
    first = done.outcomes[0]
    assert isinstance(first, Scored)
    assert first.scores == (0.25, 0.5, 0.75)
    assert (first.model, first.provider) == ("cohere/rerank-v3.5", "Cohere")
    assert (first.response_id, first.attempts) == ("gen-1", 1)
    assert first.cost_usd == 0.001
    assert not first.cost_estimated
    assert first.latency_seconds > 0
    assert EPOCH < first.received_at < EPOCH + 60


def test_totals_add_up() -> None:
    """Totals count sends, replies, passages, units and dollars, and the wall time."""
    totals = run(answer_ok, make_requests(50)).result.totals
    assert (totals.requests, totals.replies, totals.retries) == (50, 50, 0)
    assert (totals.passages_scored, totals.passages_failed) == (150, 0)
    assert (totals.search_units, totals.planned_units) == (50, 50)
    assert totals.cost_usd == pytest.approx(0.05)
    assert (totals.unknown_usd, totals.throttled) == (0.0, 0)
    assert totals.seconds > 0


def test_no_request_at_all_ends_at_once() -> None:
    """An empty plan sends nothing and stops for no reason."""
    done = run(answer_ok, [])
    assert done.result.stop is None
    assert done.result.totals.requests == 0


def test_the_key_goes_into_the_authorization_header_alone() -> None:
    """The bearer token is the key as it was given."""
    done = run(answer_ok, make_requests(1))
    assert done.endpoint.authorization == {f"Bearer {KEY}"}


def test_concurrency_stays_under_the_maximum() -> None:
    """No more than max_concurrency sends are ever in flight, and that many are."""
    done = run(answer_ok, make_requests(200), endpoint=REMOTE, low=1.0, high=2.0)
    assert done.endpoint.most_in_flight == REMOTE.max_concurrency


def test_requests_are_pulled_as_needed_only() -> None:
    """Of a plan of many requests no more is read than what is sent and a bounded read-ahead."""
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        for number in range(10**6):
            pulled += 1
            yield make_request(number)

    def refuse_later(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return ok() if endpoint.tries.total() <= 30 else refuse(401)

    run(refuse_later, endless())
    assert pulled <= 30 + REMOTE.max_concurrency + 3 * READ_AHEAD


def test_a_slow_ledger_slows_the_sending() -> None:
    """A send's slot is free only when its outcome is accepted."""
    slow = run(answer_ok, make_requests(80), accept_seconds=10.0)
    assert slow.ended_at >= 80 / REMOTE.max_concurrency * 10
    assert slow.numbers == list(range(80))


def test_server_errors_are_retried_until_success() -> None:
    """30 % random 5xx lose nothing, duplicate nothing and cost few extra sends."""
    rng = random.Random(3)

    def flaky(_endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return refuse(rng.choice([500, 502, 503, 529])) if rng.random() < 0.3 else ok()

    done = run(flaky, make_requests(3000))
    assert done.numbers == list(range(3000))
    assert all(isinstance(outcome, Scored) for outcome in done.outcomes)
    totals = done.result.totals
    assert totals.requests == done.endpoint.tries.total() <= 1.5 * 3000
    assert totals.retries == totals.requests - 3000
    assert done.result.stop is None


def test_retries_wait_while_fresh_requests_succeed() -> None:
    """While fresh requests remain, at most a tenth of the successes are retries."""

    def a_quarter_fails_once(endpoint: FakeEndpoint, number: int) -> httpx.Response:
        return refuse(500) if number % 4 == 0 and endpoint.tries[number] == 1 else ok()

    done = run(a_quarter_fails_once, make_requests(400), endpoint=REMOTE)
    order = [number for _, number in done.endpoint.arrivals]
    last_fresh = max(order.index(number) for number in range(400))
    retried = last_fresh + 1 - len(set(order[: last_fresh + 1]))
    assert 0 < retried <= 0.1 * last_fresh + 1
    assert done.numbers == list(range(400))


def test_a_throttle_reply_pauses_everyone() -> None:
    """After a 429 with Retry-After 17 nobody sends for 17 s, and nothing is lost."""
    throttled_at: list[float] = []

    def throttle_once(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        if endpoint.tries.total() == 40:
            throttled_at.append(endpoint.now)
            return refuse(429, headers={"Retry-After": "17"})
        return ok()

    done = run(throttle_once, make_requests(200))
    # What had left before the answer arrived may still arrive: latency is at most 0.12 s.
    late = [at for at, _ in done.endpoint.arrivals if at > throttled_at[0] + 0.12]
    assert min(late) >= throttled_at[0] + 17
    assert done.numbers == list(range(200))
    assert done.result.totals.throttled == 1


def test_after_a_pause_the_rate_is_no_higher_than_before() -> None:
    """When a pause ends, sends leave at the configured spacing with a burst of four at most."""

    def throttle_once(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        first = endpoint.tries.total() == 40
        return refuse(429, headers={"Retry-After": "17"}) if first else ok()

    slow = REMOTE.model_copy(update={"requests_per_minute": 600})
    done = run(throttle_once, make_requests(300), endpoint=slow, low=0.001, high=0.002)
    after = [at for at, _ in done.endpoint.arrivals if at > 17]
    for earlier, later in zip(after, after[10:], strict=False):
        assert later - earlier >= 0.1 * (10 - 4) - 0.01


@pytest.mark.parametrize(
    ("status", "kind"), [(401, KeyStop), (402, CreditStop), (403, KeyStop), (404, EndpointStop)]
)
def test_a_refused_job_stops_with_only_the_sends_in_flight(
    status: int, kind: type[Exception]
) -> None:
    """After such an answer nothing new leaves; replies in flight are still accepted."""
    refused_at: list[float] = []

    def refuse_after_20(endpoint: FakeEndpoint, number: int) -> httpx.Response:
        if number == 20:
            refused_at.append(endpoint.now)
            return refuse(status)
        return ok()

    done = run(refuse_after_20, make_requests(500))
    assert type(done.result.stop) is kind
    sent = done.endpoint.tries.total()
    assert sent <= 21 + 2 * REMOTE.max_concurrency
    # The answer is known at most 0.12 s after it was made; what arrived later had left before.
    assert max(at for at, _ in done.endpoint.arrivals) <= refused_at[0] + 0.12
    assert len(done.outcomes) == sent - 1
    assert len(set(done.numbers)) == len(done.outcomes)


def test_a_daily_quota_stops_and_names_the_wait() -> None:
    """A free-tier day limit is not waited for: the stop tells the seconds to midnight UTC."""

    def quota(_endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return refuse(429, {"limit_source": "openrouter_free_tier_daily"})

    done = run(quota, make_requests(5))
    assert isinstance(done.result.stop, QuotaStop)
    assert done.result.stop.wait_seconds == pytest.approx(86_400 - EPOCH % 86_400, abs=5)


def test_a_spent_allowance_stops_before_it_is_overspent() -> None:
    """With 10 requests' money, 10 requests are sent, all are kept and the run stops."""
    done = run(answer_ok, make_requests(50), allowance_usd=0.01)
    assert isinstance(done.result.stop, BudgetStop)
    assert done.endpoint.tries.total() == 10
    assert len(done.outcomes) == 10


def test_unbilled_failures_give_their_money_back() -> None:
    """A 500 is not charged: with exact money and one 500 every request is still scored."""

    def one_500(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return refuse(500) if endpoint.tries.total() == 5 else ok()

    done = run(one_500, make_requests(10), allowance_usd=0.01)
    assert done.result.stop is None
    assert done.numbers == list(range(10))


def test_sends_of_unknown_fate_are_counted_as_spent() -> None:
    """A timeout may have been charged: with exact money the last request is not sent."""

    def one_timeout(endpoint: FakeEndpoint, _number: int) -> httpx.Response | Exception:
        return httpx.ReadTimeout("slow") if endpoint.tries.total() == 5 else ok()

    done = run(one_timeout, make_requests(10), allowance_usd=0.01)
    assert isinstance(done.result.stop, BudgetStop)
    assert len(done.outcomes) == 9
    assert done.result.totals.unknown_usd == pytest.approx(0.001)


def test_a_reply_without_cost_is_estimated_from_its_units() -> None:
    """Units times price stands in for a missing cost, and the outcome says so."""
    body = b'{"model":"m","results":[{"index":0,"relevance_score":1}],"usage":{"search_units":3}}'

    def costless(_endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return httpx.Response(200, content=body)

    done = run(costless, [make_request(0, passages=1)])
    (scored,) = done.outcomes
    assert isinstance(scored, Scored)
    assert scored.cost_estimated
    assert scored.cost_usd == pytest.approx(0.003)
    assert done.result.totals.search_units == 3


def test_a_reply_without_usage_is_taken_at_the_planned_units() -> None:
    """Planned units times price stands in where a reply says nothing of its cost."""
    body = b'{"model":"m","results":[{"index":0,"relevance_score":1}]}'

    def silent(_endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return httpx.Response(200, content=body)

    done = run(silent, [make_request(0, passages=1, units=2)])
    assert done.result.totals.cost_usd == pytest.approx(0.002)
    assert done.result.totals.search_units == 2


def interrupted(
    *, after: float, low: float = 0.02, high: float = 0.12, accept_seconds: float = 0.0
) -> Run:
    async def main() -> Run:
        stop = asyncio.Event()
        if after > 0:
            asyncio.get_running_loop().call_later(after, stop.set)
        else:
            stop.set()
        return await score(
            answer_ok,
            make_requests(10_000),
            stop=stop,
            low=low,
            high=high,
            accept_seconds=accept_seconds,
        )

    return simulate(main())


def test_an_interrupted_run_accepts_what_is_in_flight() -> None:
    """After the stop event nothing new leaves and every send in flight is accepted."""
    done = interrupted(after=1.0)
    assert isinstance(done.result.stop, Interrupted)
    assert max(at for at, _ in done.endpoint.arrivals) <= 1.12
    assert len(done.outcomes) == done.endpoint.tries.total() == done.result.totals.requests
    assert done.ended_at <= 1.2


def test_an_interrupted_run_gives_up_on_slow_sends_after_its_grace() -> None:
    """Four seconds after the stop event the sends still in flight are of unknown fate."""
    done = interrupted(after=1.0, low=60.0, high=61.0)
    assert done.ended_at == pytest.approx(5.0, abs=0.001)
    assert done.outcomes == []
    assert done.result.totals.unknown_usd == pytest.approx(0.001 * REMOTE.max_concurrency)


def test_a_reply_that_came_within_the_grace_is_accepted_after_it() -> None:
    """The end of the grace cuts off sends, never the keeping of what is paid."""
    done = interrupted(after=1.0, low=4.0, high=4.0, accept_seconds=30.0)
    assert len(done.outcomes) == REMOTE.max_concurrency
    assert done.result.totals.unknown_usd == 0


def test_a_stop_set_before_the_start_sends_nothing() -> None:
    """An interruption that came first leaves the whole plan unscored."""
    done = interrupted(after=0.0)
    assert done.result.totals.requests == 0


def test_a_failing_ledger_ends_the_run_with_its_error() -> None:
    """When accept raises, sending stops, replies in flight are offered, the error comes out."""
    offered: list[int] = []
    seen: list[FakeEndpoint] = []

    def disk_full(outcome: Outcome) -> None:
        offered.append(outcome.request.number)
        if len(offered) >= 5:
            raise OSError(28, "No space left on device")

    def watch(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        seen[:] = [endpoint]
        return ok()

    with pytest.raises(OSError, match="No space left") as caught:
        run(watch, make_requests(500), accept=disk_full)
    assert seen[0].tries.total() == len(offered) <= 5 + 2 * REMOTE.max_concurrency
    assert "more sends ended in an error" in caught.value.__notes__[0]


def test_a_failing_plan_ends_the_run_with_its_error() -> None:
    """What the iterable of requests raises comes out after the sends in flight were accepted."""
    outcomes: list[Outcome] = []

    def broken() -> Iterator[Request]:
        yield from make_requests(200)
        raise ValueError("work file is torn")

    with pytest.raises(ValueError, match="work file is torn"):
        run(answer_ok, broken(), accept=outcomes.append)
    assert 0 < len(outcomes) <= 200


def test_an_outage_costs_probes_only_and_everything_is_scored_after_it() -> None:
    """In ten dead minutes few sends leave, and after them every request gets its outcome."""

    def outage(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return refuse(503) if 5 <= endpoint.now < 605 else ok()

    patient = REMOTE.model_copy(update={"patience_seconds": 3600, "requests_per_minute": 1200})
    done = run(outage, make_requests(2000), endpoint=patient)
    assert done.numbers == list(range(2000))
    assert done.result.stop is None
    probes = [at for at, _ in done.endpoint.arrivals if 10 <= at < 605]
    assert len(probes) <= 25
    assert done.endpoint.tries.total() <= 1.05 * 2000 + len(probes)
    # 100 s of work at 20 a second, and up to a minute until the last probe finds the end.
    assert done.ended_at <= 605 + 60 + 100


def test_a_lasting_outage_stops_the_run_when_patience_ends() -> None:
    """When nothing succeeds for patience_seconds the run stops and names the last status."""

    def dead(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return ok() if endpoint.now < 5 else refuse(502)

    done = run(dead, make_requests(100_000))
    assert isinstance(done.result.stop, EndpointStop)
    assert "502" in str(done.result.stop)
    assert 600 <= done.ended_at <= 600 + 5 + 60 + 1
    assert len(set(done.numbers)) == len(done.numbers) == done.result.totals.replies


def test_a_single_failure_after_a_quiet_hour_is_no_outage() -> None:
    """Patience counts from the first failure, not from the last success."""
    slow = replace(
        ScoreSettings.from_endpoint(REMOTE, None), limit=1, window_seconds=3600, patience_seconds=60
    )

    def fail_once(endpoint: FakeEndpoint, number: int) -> httpx.Response:
        return refuse(500) if number == 1 and endpoint.tries[1] == 1 else ok()

    done = run(fail_once, make_requests(3), settings=slow)
    assert done.numbers == [0, 1, 2]


def test_a_malformed_reply_is_retried_and_counted_as_spent() -> None:
    """A success without valid scores may be charged: its planned cost is of unknown fate."""

    def garbled_once(endpoint: FakeEndpoint, number: int) -> httpx.Response:
        return httpx.Response(200, content=b"<html>") if endpoint.tries[number] == 1 else ok()

    done = run(garbled_once, make_requests(1))
    assert done.numbers == [0]
    assert done.result.totals.unknown_usd == pytest.approx(0.001)
    assert done.result.totals.retries == 1


def test_progress_is_reported_and_ends_with_the_totals() -> None:
    """Snapshots come at most ten times a second and the last one is complete."""
    done = run(answer_ok, make_requests(400))
    assert len(done.progress) <= done.ended_at * 10 + 2
    last = done.progress[-1]
    assert (last.sends, last.replies, last.in_flight, last.deferred) == (400, 400, 0, 0)
    assert last.cost_usd == pytest.approx(0.4)
    assert last.limit_per_minute == 60_000
    assert last.per_minute == pytest.approx(400 * 60 / done.ended_at, rel=0.05)


def test_cancelling_the_run_leaves_no_task_behind() -> None:
    """A cancelled caller gets its cancellation, and no send goes on without it."""

    async def main() -> int:
        seen: list[FakeEndpoint] = []

        def watch(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
            seen[:] = [endpoint]
            return ok()

        task = asyncio.create_task(score(watch, make_requests(10_000)))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return seen[0].in_flight

    assert simulate(main()) == 0
