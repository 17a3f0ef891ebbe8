"""Budgets of a day and a month: what a whole state root may spend, whoever starts what.

A plan whose rest could pass one of them sends nothing. While a shard is scored it may spend what
is left: the budget, less what is paid, less what other live runs have reserved. Each claims its
shard, and so reserves, before it counts: of two that start at once each sees the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rerank_jobs.config import Endpoint, Job
from rerank_jobs.dollars import show_usd
from rerank_jobs.errors import BudgetStop, RerankJobsError
from rerank_jobs.ledger.spending import count_spending, sum_payments
from rerank_jobs.plan.build import Draft
from rerank_jobs.plan.frozen import Plan, run_folder
from rerank_jobs.plan.promise import Promise
from rerank_jobs.storage import Store

__all__ = [
    "Cap",
    "Outlook",
    "check_outlook",
    "count_rest",
    "explain_stop",
    "find_tightest",
    "foresee",
    "is_free",
    "read_caps",
]

_ROUNDING_USD = 1e-9


@dataclass(frozen=True, slots=True)
class Cap:
    """A budget of a UTC day or month and how much of it is used, in dollars.

    ``reserved_usd`` is what other runs, alive now, may still spend; ``resets_at`` is in UTC.
    """

    key: str
    period: str
    limit_usd: float
    paid_usd: float
    reserved_usd: float
    resets_at: datetime

    @property
    def left_usd(self) -> float:
        """What may be spent until the reset; not less than 0."""
        return max(0.0, self.limit_usd - self.paid_usd - self.reserved_usd)

    def describe(self) -> str:
        """Say what is spent, as ``$3.20 of $5.00 spent today``."""
        return f"{show_usd(self.paid_usd)} of {show_usd(self.limit_usd)} spent {self.period}"


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where the budgets stand before a plan goes on, and the most that its rest may cost."""

    caps: tuple[Cap, ...] = ()
    rest_usd: float = 0.0

    def describe(self) -> str:
        """Say what is spent of each budget and what other runs have reserved; empty if none is."""
        return ", ".join(cap.describe() for cap in self.caps) + _tell_reserved(self.caps[:1])

    def to_json(self) -> dict[str, float | None]:
        """Return dollars spent by period, ``None`` where no budget asks for it."""
        paid = {cap.period: round(cap.paid_usd, 6) for cap in self.caps}
        return {
            "spent_today_usd": paid.get("today"),
            "spent_month_usd": paid.get("this month"),
        }


def is_free(endpoint: Endpoint) -> bool:
    """Say whether the endpoint is planned to cost nothing."""
    return endpoint.embedded or not (endpoint.price_usd or endpoint.token_price_usd)


def read_caps(job: Job, state: Store, now: float, *, ours: str) -> tuple[Cap, ...]:
    """Return where the job's budgets of day and month stand at ``now`` (seconds since the epoch).

    Where none is set, or nothing costs anything, nothing is listed or read. What is reserved under
    the folder ``ours`` is left out.
    """
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    month = today.replace(day=1)
    budget = job.budget
    windows = [
        ("max_usd_per_day", "today", budget.max_usd_per_day, today, today + timedelta(days=1)),
        ("max_usd_per_month", "this month", budget.max_usd_per_month, month, _next_month(month)),
    ]
    asked = [window for window in windows if window[2] is not None]
    if not asked or is_free(job.endpoint):
        return ()
    since = [start.timestamp() for *_, start, _ in asked]
    spending = count_spending(state, since, now, ours=ours)
    return tuple(
        Cap(f"budget.{key}", period, limit or 0.0, paid, spending.reserved_usd, resets_at)
        for (key, period, limit, _, resets_at), paid in zip(asked, spending.paid_usd, strict=True)
    )


def foresee(
    job: Job, state: Store, partition: str, identity: str, plan: Plan | Draft, *, now: float
) -> Outlook:
    """Return where the budgets stand before a plan, frozen or only drafted, goes on.

    What was paid for the plan is a part of what is spent, so only the rest of each allowance is
    still to come, and none where a shard is done.
    """
    caps = read_caps(job, state, now, ours=f"{partition}/run/{identity}")
    if not caps:
        return Outlook()
    frozen = plan if isinstance(plan, Plan) else None
    return Outlook(caps, count_rest(state, partition, identity, plan.promise, frozen))


def count_rest(
    state: Store, partition: str, identity: str, promise: Promise, plan: Plan | None
) -> float:
    """Return the most (USD) that a plan may still cost: its allowances, less what it has paid.

    Nothing where a shard is done. ``plan`` is ``None`` where none is frozen.
    """
    allowances = {f"{partition}/run/{identity}": promise.allowance_usd}
    if plan is not None:
        allowances = {
            run_folder(partition, identity, shard.number): shard.allowance_usd
            for shard in plan.shards
        }
    return sum(
        max(0.0, allowance - sum_payments(state, folder))
        for folder, allowance in allowances.items()
        if not state.exists(f"{folder}/done.json")
    )


def check_outlook(job: Job, outlook: Outlook) -> None:
    """Refuse to go on with a plan whose rest could pass a budget of a day or a month.

    Raises:
        BudgetStop: nothing is sent.

    """
    rest = outlook.rest_usd
    for cap in outlook.caps:
        if rest <= cap.left_usd + _ROUNDING_USD:
            continue
        advice = f"it starts anew at {_show_instant(cap.resets_at)}: run again then, or raise it"
        if rest > cap.limit_usd + _ROUNDING_USD:
            advice = "raise it, set candidates.top_k, or try a part with --limit-queries"
        raise BudgetStop(
            f"job {job.name}: {cap.key}: {cap.describe()}{_tell_reserved((cap,))}, and the plan may"
            f" cost {show_usd(rest)} more: nothing is sent; {advice}"
        )


def find_tightest(caps: tuple[Cap, ...], allowance_usd: float | None) -> Cap | None:
    """Return the budget that leaves the least, if that is less than the allowance.

    ``allowance_usd`` is ``None`` where nothing is bounded, because nothing costs anything.
    """
    tightest = min(caps, key=lambda cap: cap.left_usd, default=None)
    if tightest is None or allowance_usd is None:
        return None
    return tightest if tightest.left_usd < allowance_usd - _ROUNDING_USD else None


def explain_stop(stop: RerankJobsError, cap: Cap | None) -> RerankJobsError:
    """Return why a shard stopped: where money ended that ``cap`` had bounded, that budget's name.

    Else the stop as it is.
    """
    if cap is None or not isinstance(stop, BudgetStop):
        return stop
    return BudgetStop(
        f"{cap.key}: the {show_usd(cap.left_usd)} that was left is used up, or too little for the"
        f" next request (before this shard {cap.describe()}{_tell_reserved((cap,))}): it starts"
        f" anew at {_show_instant(cap.resets_at)}: run again then, or raise it"
    )


def _tell_reserved(caps: tuple[Cap, ...]) -> str:
    reserved = sum(cap.reserved_usd for cap in caps)
    if reserved < _ROUNDING_USD:
        return ""
    return f", {show_usd(reserved)} reserved by other runs"


def _next_month(month: datetime) -> datetime:
    return (month + timedelta(days=31)).replace(day=1)


def _show_instant(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
