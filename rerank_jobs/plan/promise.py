"""The promise of a plan: what it will do, send and cost, before anything is sent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rerank_jobs.config import API_SEARCH_USD, Job
from rerank_jobs.errors import BudgetStop
from rerank_jobs.plan.cluster import Counts
from rerank_jobs.plan.schedule import ShardPrice

__all__ = ["Promise", "allow", "check_budget", "make_promise"]


@dataclass(frozen=True, slots=True)
class Promise:
    """Totals of a plan. ``seconds`` is the sending time at the rate limit, 0 where there is none.

    ``allowance_usd`` is the most that all shards together may spend; ``api_usd`` what the units
    would cost at the list price of cohere/rerank-v3.5 on OpenRouter.
    """

    rows_in: int
    rows_out: int
    rows_rejected: int
    candidates_in: int
    candidates_out: int
    candidates_rejected: int
    candidates_cut: int
    groups: int
    queries: int
    reasons: dict[str, int]
    pairs: int
    passages: int
    passages_reused: int
    requests: int
    search_units: int
    bound_units: int
    naive_units: int
    cost_usd: float
    naive_usd: float
    api_usd: float
    allowance_usd: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the totals as plain JSON values."""
        return asdict(self)


def allow(price: ShardPrice, price_usd: float) -> float:
    """Return a shard's allowance (USD): planned cost x 1.05 and a retry; 0 if it sends nothing."""
    if price.requests == 0:
        return 0.0
    return round((price.units * 1.05 + price.widest_units) * price_usd, 6)


def make_promise(job: Job, counts: Counts, pairs: int, prices: list[ShardPrice]) -> Promise:
    """Add up a plan."""
    usd = job.endpoint.price_usd
    units = sum(price.units for price in prices)
    naive = sum(price.naive_units for price in prices)
    requests = sum(price.requests for price in prices)
    pace = job.endpoint.pace
    return Promise(
        rows_in=counts.rows_in,
        rows_out=counts.rows_out,
        rows_rejected=counts.rows_rejected,
        candidates_in=counts.candidates_in,
        candidates_out=counts.candidates_out,
        candidates_rejected=counts.candidates_rejected,
        candidates_cut=counts.cut,
        groups=counts.groups,
        queries=counts.queries,
        reasons=counts.reasons,
        pairs=pairs,
        passages=sum(price.passages for price in prices),
        passages_reused=sum(price.reused for price in prices),
        requests=requests,
        search_units=units,
        bound_units=sum(price.bound_units for price in prices),
        naive_units=naive,
        cost_usd=round(units * usd, 6),
        naive_usd=round(naive * usd, 6),
        api_usd=round(units * API_SEARCH_USD, 6),
        allowance_usd=round(sum(allow(price, usd) for price in prices), 6),
        seconds=round(requests * 60.0 / pace, 1) if pace else 0.0,
    )


def check_budget(job: Job, promise: Promise) -> None:
    """Refuse a plan whose allowances exceed the budget.

    Raises:
        BudgetStop: nothing was sent and nothing was frozen.

    """
    limit = job.budget.max_usd
    if limit is not None and promise.allowance_usd > limit:
        raise BudgetStop(
            f"job {job.name}: the plan costs ${promise.cost_usd:.3f}"
            f" ({promise.search_units:,} search units), with retries up to"
            f" ${promise.allowance_usd:.3f}, over budget.max_usd ${limit:.3f}: nothing is sent;"
            " raise the budget, set candidates.top_k, or try a part with --limit-queries"
        )
