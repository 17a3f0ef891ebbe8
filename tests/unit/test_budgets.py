"""Budgets of a day and a month: what they leave, what they refuse, and when they start anew."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.budgets import (
    Cap,
    Outlook,
    check_outlook,
    explain_stop,
    find_tightest,
    foresee,
    read_caps,
)
from rerank_jobs.config import Job
from rerank_jobs.errors import BudgetStop, CreditStop
from rerank_jobs.job import open_roots, plan_partition, preview_partition
from rerank_jobs.plan.frozen import Plan, run_folder
from rerank_jobs.storage import Entry, LocalStore, seal_json
from tests.builders import make_job, make_rows, write_rows
from tests.unit.ledger.kit import put_payment, put_record

REMOTE = {"url": "http://127.0.0.1:9/api/v1"}
NOON = datetime(2027, 3, 14, 12, tzinfo=UTC)
MARCH, APRIL = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 4, 1, tzinfo=UTC)
NEXT_DAY = datetime(2027, 3, 15, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def budgeted(folder: Path, day: float | None = None, month: float | None = None) -> Job:
    """Return a job with a priced endpoint and some budgets."""
    budget = {"max_usd_per_day": day, "max_usd_per_month": month}
    return make_job(folder, endpoint=REMOTE, budget=budget)


def cap(paid: float = 0.0, *, limit: float = 5.0, reserved: float = 0.0) -> Cap:
    """Return a budget of the day."""
    return Cap("budget.max_usd_per_day", "today", limit, paid, reserved, NEXT_DAY)


@pytest.fixture(params=["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def _zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in some time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_zone")
@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        ("2027-03-14T00:00:00", "2027-03-15", "2027-04-01"),
        ("2027-03-14T23:59:59.999999", "2027-03-15", "2027-04-01"),
        ("2027-03-31T23:59:59.999999", "2027-04-01", "2027-04-01"),
        ("2028-02-29T12:00:00", "2028-03-01", "2028-03-01"),
        ("2027-12-31T23:00:00", "2028-01-01", "2028-01-01"),
        ("2027-01-31T01:00:00", "2027-02-01", "2027-02-01"),
    ],
)
def test_days_and_months_are_those_of_utc(
    tmp_path: Path, store: LocalStore, now: str, day: str, month: str
) -> None:
    """Wherever the machine stands, a budget starts anew at 00:00 UTC and on the first of a month.

    A payment a microsecond before the next reset still counts, one before the last one does not.
    """
    instant = datetime.fromisoformat(f"{now}+00:00")
    resets = [datetime.fromisoformat(f"{text}T00:00+00:00") for text in (day, month)]
    began = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    put_payment(store, "a/run/p/00000", 1.0, resets[0].timestamp() - 1e-6)
    put_payment(store, "b/run/p/00000", 2.0, began.timestamp() - 1e-6)
    put_payment(store, "c/run/p/00000", 4.0, began.replace(day=1).timestamp() - 1e-6)
    job = budgeted(tmp_path, day=10, month=20)
    caps = read_caps(job, store, instant.timestamp(), ours="x")
    assert [one.resets_at for one in caps] == resets
    assert [one.paid_usd for one in caps] == [1.0, 1.0 if began.day == 1 else 3.0]


def soon() -> float:
    """Return an instant of today, and of tomorrow if the day turns while a test runs."""
    return time.time() + 60


class NeverListed(LocalStore):
    """A store whose listing is an error."""

    def entries(self, prefix: str = "") -> list[Entry]:
        raise AssertionError(f"{prefix} was listed")


@pytest.mark.parametrize(
    "parts",
    [
        {"endpoint": REMOTE},
        {"endpoint": REMOTE, "budget": {"max_usd": 1.0}},
        {"endpoint": {"url": "embedded"}, "budget": {"max_usd_per_day": 0.0}},
        {"endpoint": {**REMOTE, "usd_per_search": 0.0}, "budget": {"max_usd_per_month": 0.0}},
    ],
)
def test_without_a_budget_or_a_price_nothing_is_listed(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    """Who sets no such budget, or pays nothing, does not wait for a listing of the state root."""
    job = make_job(tmp_path, **parts)
    assert read_caps(job, NeverListed("nowhere"), NOON.timestamp(), ours="x") == ()


@pytest.mark.parametrize(("day", "month"), [(5.0, None), (None, 5.0)])
def test_either_budget_may_stand_alone(
    tmp_path: Path, store: LocalStore, day: float | None, month: float | None
) -> None:
    """One of the two is enough; the other's figure stays unknown."""
    put_payment(store, "a/run/p/00000", 1.0, NOON.timestamp())
    (found,) = read_caps(budgeted(tmp_path, day, month), store, NOON.timestamp(), ours="x")
    assert (found.paid_usd, found.left_usd) == (1.0, 4.0)
    assert found.resets_at == (NEXT_DAY if day else APRIL)
    assert Outlook((found,)).to_json() == {
        "spent_today_usd": 1.0 if day else None,
        "spent_month_usd": 1.0 if month else None,
    }


def test_a_plan_that_could_pass_a_budget_is_refused_with_all_figures(tmp_path: Path) -> None:
    """The line names job, budget, what is spent, what the plan may cost, and when it resets."""
    job = budgeted(tmp_path, day=5.0)
    check_outlook(job, Outlook((cap(3.2),), 1.8))
    with pytest.raises(BudgetStop) as stop:
        check_outlook(job, Outlook((cap(3.2),), 1.8001))
    assert str(stop.value) == (
        "job test: budget.max_usd_per_day: $3.20 of $5.00 spent today, and the plan may cost"
        " $1.8001 more: nothing is sent; it starts anew at 2027-03-15 00:00 UTC: run again then,"
        " or raise it"
    )


def test_what_other_runs_have_reserved_is_not_promised_twice(tmp_path: Path) -> None:
    """Money that a live run may still spend is not left for a plan, and the line says so."""
    with pytest.raises(BudgetStop, match=r"spent today, \$2\.00 reserved by other runs, and"):
        check_outlook(budgeted(tmp_path, day=5.0), Outlook((cap(2.0, reserved=2.0),), 1.1))


def test_a_plan_dearer_than_a_whole_day_is_not_told_to_wait(tmp_path: Path) -> None:
    """Where tomorrow would not help either, the line says what does."""
    with pytest.raises(BudgetStop, match=r"raise it, set candidates\.top_k"):
        check_outlook(budgeted(tmp_path, day=5.0), Outlook((cap(0.0),), 5.1))


def test_a_plan_that_sends_nothing_is_never_refused(tmp_path: Path) -> None:
    """What is paid can be published, however much is spent already."""
    check_outlook(budgeted(tmp_path, day=5.0), Outlook((cap(9.0),), 0.0))


def test_the_tightest_budget_bounds_a_shard() -> None:
    """Of day and month the one that leaves less counts, and only if it leaves less than asked."""
    day, month = cap(3.0), Cap("budget.max_usd_per_month", "this month", 9.0, 8.0, 0.0, APRIL)
    assert find_tightest((day, month), 5.0) == month
    assert find_tightest((day,), 2.0) is None
    assert find_tightest((), 5.0) is None
    assert cap(7.0).left_usd == 0.0


def test_a_stop_names_the_budget_only_where_it_was_the_reason() -> None:
    """Money that ended is told with the budget that bounded it; any other stop stays as it is."""
    own, credit = BudgetStop("the allowance"), CreditStop("no credit")
    assert explain_stop(own, None) is own
    assert explain_stop(credit, cap(4.0)) is credit
    told = explain_stop(own, cap(4.0))
    assert isinstance(told, BudgetStop)
    assert str(told) == (
        "budget.max_usd_per_day: the $1.00 that was left is used up, or too little for the next"
        " request (before this shard $4.00 of $5.00 spent today): it starts anew at"
        " 2027-03-15 00:00 UTC: run again then, or raise it"
    )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job of 12 requests in three shards."""
    write_rows(tmp_path / "candidates.parquet", make_rows(12, 5))
    return make_job(
        tmp_path,
        endpoint=REMOTE,
        budget={"max_usd_per_day": 1.0},
        shards={"rows_per_shard": 20},
    )


@pytest.fixture
def plan(job: Job) -> Plan:
    planned = plan_partition(job)
    assert planned.plan is not None
    return planned.plan


def state_of(job: Job) -> LocalStore:
    """Return the job's state root."""
    return LocalStore(open_roots(job).state.location)


def foresee_at_noon(job: Job, plan: Plan) -> Outlook:
    """Return how the budgets stand before a frozen plan at ``NOON``."""
    now = NOON.timestamp()
    return foresee(job, state_of(job), plan.partition, plan.plan_id, plan, now=now)


def test_what_is_paid_of_a_plan_is_not_planned_again(job: Job, plan: Plan) -> None:
    """Money that this plan has paid, or may have paid, is spent, and no longer to be spent."""
    state, allowance = state_of(job), plan.promise.allowance_usd
    assert foresee_at_noon(job, plan).rest_usd == pytest.approx(allowance)
    folder = run_folder(plan.partition, plan.plan_id, 1)
    put_payment(state, folder, 0.002, NOON.timestamp())
    put_record(state, folder, 0.001, NOON.timestamp())
    outlook = foresee_at_noon(job, plan)
    assert outlook.caps[0].paid_usd == pytest.approx(0.003)
    assert outlook.rest_usd == pytest.approx(allowance - 0.003)


def test_a_shard_that_cost_more_does_not_lower_what_others_may_cost(job: Job, plan: Plan) -> None:
    """Overspending of one shard is spent money; the rest of the plan stays as dear as it was."""
    folder = run_folder(plan.partition, plan.plan_id, 0)
    put_payment(state_of(job), folder, 0.5, NOON.timestamp())
    others = sum(shard.allowance_usd for shard in plan.shards[1:])
    assert foresee_at_noon(job, plan).rest_usd == pytest.approx(others)


def test_a_done_shard_has_no_rest(job: Job, plan: Plan) -> None:
    """What a finished shard did not need of its allowance is free for others."""
    state = state_of(job)
    state.put(f"{run_folder(plan.partition, plan.plan_id, 0)}/done.json", seal_json({}))
    others = sum(shard.allowance_usd for shard in plan.shards[1:])
    assert foresee_at_noon(job, plan).rest_usd == pytest.approx(others)


def test_a_plan_over_the_rest_of_the_day_is_not_frozen(job: Job) -> None:
    """Planning stops before anything is frozen; a preview shows the figures all the same."""
    put_payment(state_of(job), "other/run/p/00000", 0.999, soon())
    with pytest.raises(BudgetStop, match=r"max_usd_per_day: \$0\.999 of \$1\.00 spent today"):
        plan_partition(job)
    assert not [entry for entry in state_of(job).entries() if "/plan/" in entry.name]
    outlook = preview_partition(job).outlook
    assert outlook.describe() == "$0.999 of $1.00 spent today"
    assert outlook.to_json()["spent_today_usd"] == 0.999


def test_a_frozen_plan_is_held_to_the_day_as_well(job: Job, plan: Plan) -> None:
    """What others spent since a plan was frozen counts when it is taken up again."""
    put_payment(state_of(job), "other/run/p/00000", 0.999, soon())
    with pytest.raises(BudgetStop, match="max_usd_per_day"):
        plan_partition(job)
    assert state_of(job).exists(f"{plan.partition}/plan/{plan.plan_id}.json")
