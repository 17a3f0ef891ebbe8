"""A range of partitions: its keys, its price, and which partition a budget still admits.

Newest first, one at a time, whole partitions only: one is begun if the most that it may cost fits
what is left of the budget, and the first that does not fit ends the run. What is left is counted
from the ledger, so a run that goes on somewhere else, or tomorrow, counts the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rerank_jobs.budgets import is_free
from rerank_jobs.config import Job
from rerank_jobs.dollars import show_usd
from rerank_jobs.errors import BudgetStop, InputError, JobError
from rerank_jobs.ledger.spending import sum_payments
from rerank_jobs.planning import Planned, find_rest, plan_partition, preview_partition
from rerank_jobs.storage import open_store, scratch_folder

__all__ = [
    "MOST_PARTITIONS",
    "Admission",
    "PartitionPrice",
    "RangePrice",
    "admit_partition",
    "choose_budget",
    "count_spent",
    "fits",
    "list_keys",
    "price_range",
    "show_price",
]

MOST_PARTITIONS = 1000
"""Of one backfill: Airflow makes one mapped task for each, 1,024 at most."""

TABLE_LINES = 40
_ROUNDING_USD = 1e-9


@dataclass(frozen=True, slots=True)
class PartitionPrice:
    """What a partition would send and cost now, in its place in the range.

    ``state`` is ``new``, ``begun`` (a plan is frozen), ``published`` (or withdrawn: nothing is
    sent), ``missing`` (there is no input) or ``unusable``, of which ``problem`` says why.
    ``alone_usd`` knows the score library only, ``cost_usd`` also what newer partitions of the range
    send before; ``most_usd`` is the latter with retries, less what is paid already.
    """

    partition: str
    state: str
    queries: int = 0
    passages: int = 0
    reused: int = 0
    requests: int = 0
    search_units: int = 0
    alone_usd: float = 0.0
    cost_usd: float = 0.0
    most_usd: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RangePrice:
    """The prices of a range, newest partition first."""

    partitions: tuple[PartitionPrice, ...]

    @property
    def alone_usd(self) -> float:
        """The sum of all previews: a bound that no order of the partitions exceeds."""
        return sum(price.alone_usd for price in self.partitions)

    @property
    def cost_usd(self) -> float:
        """What the whole range costs if a pair of several partitions is paid once."""
        return sum(price.cost_usd for price in self.partitions)

    @property
    def most_usd(self) -> float:
        """The most that the whole range costs, with retries."""
        return sum(price.most_usd for price in self.partitions)

    def list_open(self) -> tuple[str, ...]:
        """Return the partitions that are still to be published, newest first."""
        return tuple(p.partition for p in self.partitions if p.state in ("new", "begun"))

    def to_json(self) -> dict[str, Any]:
        """Return counts and dollars as plain JSON."""
        totals = {name: round(getattr(self, name), 6) for name in _DOLLARS}
        return totals | {"partitions": [asdict(price) for price in self.partitions]}


_DOLLARS = ("alone_usd", "cost_usd", "most_usd")


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a partition is begun: the most that it may still cost, and what is left for it."""

    partition: str
    admitted: bool
    price_usd: float
    left_usd: float
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


def list_keys(
    first: str, last: str, partitions: Sequence[str] = (), *, key_format: str = "%Y-%m-%d"
) -> tuple[str, ...]:
    """Return partition keys, newest first: the days ``first`` to ``last``, both included.

    Days are written as ``2026-11-22``; ``key_format`` makes them keys, and a key that several days
    share (as with months) stands once. ``partitions``, listed newest first, take their place.

    Raises:
        JobError: neither or both are given, a day is none, the range is empty or too long.

    """
    if partitions:
        if first or last:
            raise JobError("from and to, or a list of partitions: not both")
        keys = list(dict.fromkeys(partitions))
    else:
        keys = list(dict.fromkeys(day.strftime(key_format) for day in _list_days(first, last)))
    if len(keys) > MOST_PARTITIONS:
        raise JobError(f"{len(keys):,} partitions are too many for one run: {MOST_PARTITIONS:,}")
    return tuple(keys)


def _list_days(first: str, last: str) -> Iterator[date]:
    if not first or not last:
        raise JobError("name the first and the last day (from, to), or a list of partitions")
    try:
        start, stop = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError:
        raise JobError(f"from {first} to {last}: write days as 2026-11-22") from None
    if stop < start:
        raise JobError(f"from {first} to {last}: the last day is before the first")
    return (stop - timedelta(days=back) for back in range((stop - start).days + 1))


def choose_budget(job: Job, budget_usd: float | None) -> float:
    """Return what a backfill may spend: its own budget, else ``budget.max_usd`` of the job file.

    Raises:
        JobError: there is neither, and the endpoint is not free.

    """
    if budget_usd is not None:
        return budget_usd
    if job.budget.max_usd is not None:
        return job.budget.max_usd
    if is_free(job.endpoint):
        return 0.0
    raise JobError(f"job {job.name}: a backfill needs a budget: name one, or set budget.max_usd")


def price_range(job: Job, partitions: Sequence[str]) -> RangePrice:
    """Price partitions, in their order, without freezing a plan or sending anything.

    Each is planned twice: by itself, and with the pairs of those before it counted as known, which
    is what the library will hold when its turn comes. So a pair of several partitions is priced
    once. ``reuse.mode: off`` pays it each time, and is priced so. The pairs are kept in scratch
    files (32 bytes a pair), not in memory. Of a plan that is frozen what newer partitions pay for
    is not taken off: its price is a bound.

    Raises:
        JobError, StateError: see ``rerank_jobs.planning``. An input that cannot be used is none of
            them: it is named in the price.

    """
    with scratch_folder(open_store(job.state_root).location) as folder:
        return RangePrice(tuple(_price(job, partition, folder) for partition in partitions))


def _price(job: Job, partition: str, assumed: Path) -> PartitionPrice:
    try:
        planned = alone = preview_partition(job, partition)
        if planned.current is None:
            planned = preview_partition(job, partition, assumed=assumed)
    except InputError as error:
        missing = not Path(job.input_location(partition)).exists()
        state = "missing" if missing else "unusable"
        return PartitionPrice(partition, state, problem=str(error))
    if planned.current is not None:
        return PartitionPrice(partition, "published", planned.promise.queries)
    promise, paid = planned.promise, planned.paid.cost_usd if planned.paid else 0.0
    return PartitionPrice(
        partition,
        "begun" if planned.plan is not None else "new",
        queries=promise.queries,
        passages=promise.passages,
        reused=promise.passages_reused,
        requests=promise.requests,
        search_units=promise.search_units,
        alone_usd=max(0.0, alone.promise.cost_usd - paid),
        cost_usd=max(0.0, promise.cost_usd - paid),
        most_usd=find_rest(job, planned),
    )


def count_spent(job: Job, partitions: Sequence[str], since: float) -> float:
    """Return what was paid for some partitions since an instant (seconds), from the ledger, USD."""
    state = open_store(job.state_root)
    return sum(sum_payments(state, f"{partition}/run", since) for partition in partitions)


def fits(price_usd: float, left_usd: float) -> bool:
    """Say whether a partition whose whole price is ``price_usd`` may be begun."""
    return price_usd <= left_usd + _ROUNDING_USD


def admit_partition(job: Job, partition: str, left_usd: float) -> Admission:
    """Freeze a partition's plan if the most that it may still cost fits what is left.

    Else nothing is frozen, and nothing may be sent. Published partitions cost nothing and fit.

    Raises:
        JobError, InputError, StateError, KeyStop: see ``rerank_jobs.planning.plan_partition``.

    """
    left_usd = max(0.0, left_usd)
    planned = preview_partition(job, partition)
    price = find_rest(job, planned)
    if not fits(price, left_usd):
        return _refuse(partition, price, left_usd)
    try:
        planned = plan_partition(job, partition)
    except BudgetStop as stop:
        return Admission(
            partition, admitted=False, price_usd=price, left_usd=left_usd, reason=str(stop)
        )
    return _decide(job, planned, left_usd)


def _decide(job: Job, planned: Planned, left_usd: float) -> Admission:
    """Look again at what is frozen: the table may have changed since it was priced."""
    price = find_rest(job, planned)
    if not fits(price, left_usd):
        return _refuse(planned.partition, price, left_usd)
    return Admission(planned.partition, admitted=True, price_usd=price, left_usd=left_usd)


def _refuse(partition: str, price: float, left_usd: float) -> Admission:
    reason = f"may cost {show_usd(price)}, and {show_usd(left_usd)} of the budget is left"
    return Admission(partition, admitted=False, price_usd=price, left_usd=left_usd, reason=reason)


def show_price(price: RangePrice, budget_usd: float) -> str:
    """Return the price as a small table in Markdown: keys, counts and dollars only."""
    lines = [
        "| partition | state | queries | requests | search units | reused | alone | price | most |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in price.partitions[:TABLE_LINES]:
        counts = (one.queries, one.requests, one.search_units, one.reused)
        dollars = (one.alone_usd, one.cost_usd, one.most_usd)
        cells = [f"{count:,}" for count in counts] + [show_usd(usd) for usd in dollars]
        lines.append(f"| {' | '.join([one.partition, one.state, *cells])} |")
    if len(price.partitions) > TABLE_LINES:
        lines.append(f"| … {len(price.partitions) - TABLE_LINES:,} more | | | | | | | | |")
    totals = [show_usd(usd) for usd in (price.alone_usd, price.cost_usd, price.most_usd)]
    lines.append(f"| **all** | {len(price.list_open()):,} to do | | | | | {' | '.join(totals)} |")
    note = "*alone*: by itself; *price*: what partitions share is paid once; *most*: with retries."
    return "\n".join([*lines, "", f"{note} Budget of this run: {show_usd(budget_usd)}."])
