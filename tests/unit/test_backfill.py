"""A range of partitions: its keys, its price, what a budget admits, and what was spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.backfill import (
    MOST_PARTITIONS,
    PartitionPrice,
    RangePrice,
    admit_partition,
    choose_budget,
    count_spent,
    list_keys,
    price_range,
    show_price,
)
from rerank_jobs.config import Job
from rerank_jobs.errors import JobError
from rerank_jobs.job import open_roots, plan_partition, run_partition
from rerank_jobs.job_file import load_job
from tests.unit.cli.kit import JOB, make_rows, merge, read_stats, serve, write_job, write_table

DAYS = ("2026-11-13", "2026-11-12", "2026-11-11")
USD = 0.001
"""Of a search unit; each query of these tables is one."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint at the price that jobs plan with."""
    with serve("--scorer", "instant", "--latency-ms", "0") as address:
        yield address


@pytest.fixture
def job(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Return a job of three days with 20 queries each, 10 of them those of the day before."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-any")
    return make_days(tmp_path, url)


def make_days(folder: Path, url: str, **changes: Any) -> Job:
    """Write the days of ``job`` and their job file."""
    for number, day in enumerate(reversed(DAYS)):
        rows = make_rows(10 * (number + 2))[40 * number :]
        for row in rows:
            row["query"] += f" in {folder.name}"  # a server counts repeated pairs
        write_table(folder / f"in/ds={day}/candidates.parquet", rows)
    fields: dict[str, Any] = {
        "input": merge(JOB["input"], {"path": "in/{partition}"}),
        "partition": {"template": "ds={key}"},
        "endpoint": {"url": url, "requests_per_minute": 60_000},
        **changes,
    }
    return load_job(write_job(folder, fields))


def test_days_are_listed_newest_first_with_both_ends() -> None:
    """A key that several days share stands once; listed keys keep their order."""
    assert list_keys("2026-11-11", "2026-11-13") == DAYS
    assert list_keys("2026-10-30", "2026-11-02", key_format="%Y-%m") == ("2026-11", "2026-10")
    assert list_keys("", "", ["eu", "us", "eu"]) == ("eu", "us")


@pytest.mark.parametrize(
    ("first", "last", "partitions", "says"),
    [
        ("", "", [], "name the first and the last day"),
        ("2026-11-11", "", [], "name the first and the last day"),
        ("2026-11-11", "2026-11-10", [], "before the first"),
        ("yesterday", "2026-11-10", [], "write days as"),
        ("2026-11-11", "2026-11-12", ["eu"], "not both"),
        ("2000-01-01", "2026-11-12", [], "too many"),
        ("", "", [str(number) for number in range(MOST_PARTITIONS + 1)], "too many"),
    ],
)
def test_a_range_that_names_nothing_is_refused(
    first: str, last: str, partitions: list[str], says: str
) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(JobError, match=says):
        list_keys(first, last, partitions)


@pytest.mark.slow
def test_a_pair_of_two_days_is_priced_once_as_it_is_paid(job: Job, url: str) -> None:
    """The price of the range is what running it newest first costs; alone it would be more."""
    priced = price_range(job, DAYS)
    before = read_stats(url)["requests"]
    for day in DAYS:
        run_partition(job, day)

    assert [one.state for one in priced.partitions] == ["new"] * 3
    assert [one.alone_usd for one in priced.partitions] == pytest.approx([20 * USD] * 3)
    assert priced.cost_usd == pytest.approx(40 * USD)
    assert priced.most_usd >= priced.cost_usd
    assert read_stats(url)["requests"] - before == 40
    assert count_spent(job, DAYS, 0.0) == pytest.approx(40 * USD)
    assert [one.state for one in price_range(job, DAYS).partitions] == ["published"] * 3


def test_without_reuse_each_day_is_priced_and_paid_by_itself(tmp_path: Path, url: str) -> None:
    """``reuse.mode: off`` takes nothing off."""
    priced = price_range(make_days(tmp_path, url, reuse={"mode": "off"}), DAYS)
    assert priced.cost_usd == pytest.approx(60 * USD) == priced.alone_usd


def test_pricing_freezes_nothing_and_names_inputs_that_cannot_be_used(job: Job) -> None:
    """A day without a table is missing, a broken one unusable; both cost nothing."""
    (job.base / "in/ds=2026-11-14").mkdir()
    priced = price_range(job, ("2026-11-14", *DAYS, "2026-11-10"))
    states = {one.partition: one.state for one in priced.partitions}
    assert (states["2026-11-14"], states["2026-11-10"]) == ("unusable", "missing")
    assert priced.list_open() == DAYS
    names = [entry.name for entry in open_roots(job).state.entries()]
    assert not [name for name in names if "/plan/" in name or "scratch" in name]


def test_a_begun_partition_costs_what_is_left_of_it_and_lends_its_pairs(job: Job) -> None:
    """A frozen plan is priced as it stands; the day before it does not pay what they share."""
    plan_partition(job, DAYS[0])
    newest, middle, _ = price_range(job, DAYS).partitions
    assert (newest.state, middle.state) == ("begun", "new")
    assert (newest.cost_usd, middle.cost_usd) == pytest.approx((20 * USD, 10 * USD))


def test_a_partition_is_admitted_whole_or_not_at_all(job: Job) -> None:
    """One microdollar less than it may cost: nothing is frozen. As much: it is."""
    price = price_range(job, DAYS[:1]).most_usd
    refused = admit_partition(job, DAYS[0], price - 1e-6)
    assert not refused.admitted
    assert refused.price_usd == pytest.approx(price)
    assert "of the budget is left" in refused.reason
    assert list(open_roots(job).state.entries(f"{DAYS[0]}/plan")) == []
    assert admit_partition(job, DAYS[0], price).admitted
    assert list(open_roots(job).state.entries(f"{DAYS[0]}/plan")) != []


def test_a_published_partition_is_admitted_with_nothing_left(job: Job) -> None:
    """It costs nothing."""
    run_partition(job, DAYS[0])
    assert admit_partition(job, DAYS[0], 0.0).admitted


def test_another_budget_of_the_job_refuses_a_partition_with_its_own_reason(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day's budget holds for a backfill as for every run."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-any")
    job = make_days(tmp_path, url, budget={"max_usd_per_day": 0.01})
    refused = admit_partition(job, DAYS[0], 5.0)
    assert not refused.admitted
    assert "budget.max_usd_per_day" in refused.reason


def test_only_payments_since_the_backfill_began_count(job: Job) -> None:
    """What was paid before, or for other partitions, is not spent of its budget."""
    run_partition(job, DAYS[0])
    now = time.time()
    assert count_spent(job, DAYS, now) == 0.0
    run_partition(job, DAYS[1])
    assert count_spent(job, DAYS, now) == pytest.approx(10 * USD)
    assert count_spent(job, DAYS[2:], now) == 0.0


def test_a_budget_comes_from_the_run_else_from_the_job_file(tmp_path: Path, url: str) -> None:
    """Without either only a free endpoint may be backfilled."""
    assert choose_budget(make_days(tmp_path / "a", url), 3.0) == 3.0
    assert choose_budget(make_days(tmp_path / "b", url, budget={"max_usd": 2.0}), None) == 2.0
    assert choose_budget(make_days(tmp_path / "c", "embedded"), None) == 0.0
    with pytest.raises(JobError, match="needs a budget"):
        choose_budget(make_days(tmp_path / "d", url), None)


def test_a_long_price_is_cut_and_totals_hold_all_of_it() -> None:
    """A person sees 40 partitions, how many more there are, and the sums of all."""
    day = PartitionPrice("d", "new", 1, 1, 0, 1, 1, 0.5, 0.25, 0.75)
    table = show_price(RangePrice((day,) * 100), 9.0)
    assert table.count("| d | new |") == 40
    assert "60 more" in table
    assert "| $50.00 | $25.00 | $75.00 |" in table
    assert "Budget of this run: $9.00" in table
