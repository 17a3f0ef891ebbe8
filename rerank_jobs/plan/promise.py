"""The promise of a plan: what it will do, send and cost, before anything is sent."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from typing import Any

from rerank_jobs.config import API_SEARCH_USD, Endpoint, Job
from rerank_jobs.dollars import show_usd
from rerank_jobs.errors import BudgetStop
from rerank_jobs.plan.cluster import Counts
from rerank_jobs.plan.price import Quantity, ShardPrice, allow

__all__ = ["SAVINGS", "Promise", "check_budget", "make_promise"]

SAVINGS = ("singles", "deduplication", "reuse", "packing")
"""What leads from the naive price to the planned one, in this order."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Totals of a plan. ``seconds`` is the sending time at the rate limit, 0 where there is none.

    ``allowance_usd`` is the most that all shards together may spend; ``api_usd`` what the units
    would cost at the list price of cohere/rerank-v3.5 on OpenRouter. ``naive_*`` is one request per
    group as it stands. ``savings`` has ``search_units``, ``tokens`` and ``cost_usd`` of each of
    ``SAVINGS``: the naive figures less all of them are the planned ones, exactly. Packing saves
    less than nothing where the endpoint's limits split a query. ``search_units`` are counted by the
    dearer reading (I2) of the 500-token rule, ``units_by_reading`` has both. ``by_reuse`` has
    ``passages``, ``search_units``, ``tokens`` and ``cost_usd`` that are sent under ``cheapest`` and
    under ``strict``. The fields with defaults are not in plans of earlier versions.
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
    tokens: int = 0
    naive_tokens: int = 0
    savings: dict[str, dict[str, float]] = field(default_factory=dict)
    units_by_reading: dict[str, int] = field(default_factory=dict)
    by_reuse: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the totals as plain JSON values."""
        return asdict(self)


def make_promise(
    job: Job,
    counts: Counts,
    pairs: int,
    prices: list[ShardPrice],
    naive: tuple[Quantity, Quantity],
) -> Promise:
    """Add up a plan; ``naive`` is the naive price and the part of it that single candidates have.

    Time is that of whichever limit, on requests or on tokens, takes longer.
    """
    total = functools.reduce(ShardPrice.plus, prices, ShardPrice())
    endpoint = job.endpoint
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
        passages=total.passages,
        passages_reused=total.reused,
        requests=total.requests,
        search_units=total.units,
        bound_units=total.bound_units,
        naive_units=naive[0].units,
        cost_usd=total.sent.cost(endpoint),
        naive_usd=naive[0].cost(endpoint),
        api_usd=round(total.units * API_SEARCH_USD, 6),
        allowance_usd=round(sum(allow(price, endpoint) for price in prices), 6),
        seconds=_find_seconds(endpoint, total),
        tokens=total.tokens,
        naive_tokens=naive[0].tokens,
        savings=_find_savings(endpoint, total, *naive),
        units_by_reading={"I1": total.units_query_once, "I2": total.units},
        by_reuse={mode: _price_reuse(endpoint, total, mode) for mode in ("cheapest", "strict")},
    )


def _price_reuse(endpoint: Endpoint, total: ShardPrice, mode: str) -> dict[str, float]:
    units, tokens = getattr(total, f"{mode}_units"), getattr(total, f"{mode}_tokens")
    return {
        "passages": getattr(total, f"{mode}_passages"),
        "search_units": units,
        "tokens": tokens,
        "cost_usd": Quantity(units, tokens).cost(endpoint),
    }


def _find_seconds(endpoint: Endpoint, total: ShardPrice) -> float:
    limits = ((total.requests, endpoint.pace), (total.tokens, endpoint.token_pace))
    return round(max(count * 60.0 / pace if pace else 0.0 for count, pace in limits), 1)


def _find_savings(
    endpoint: Endpoint, total: ShardPrice, naive: Quantity, singles: Quantity
) -> dict[str, dict[str, float]]:
    """Return the difference that each step from the naive to the planned price makes."""
    steps = (
        naive,
        Quantity(naive.units - singles.units, naive.tokens - singles.tokens),
        Quantity(total.distinct_units, total.distinct_tokens),
        Quantity(total.missing_units, total.tokens),
        total.sent,
    )
    return {
        name: {
            "search_units": before.units - after.units,
            "tokens": before.tokens - after.tokens,
            "cost_usd": round(before.cost(endpoint) - after.cost(endpoint), 6),
        }
        for name, before, after in zip(SAVINGS, steps, steps[1:], strict=False)
    }


def check_budget(job: Job, promise: Promise) -> None:
    """Refuse a plan whose allowances exceed the budget.

    Raises:
        BudgetStop: nothing was sent and nothing was frozen.

    """
    limit = job.budget.max_usd
    if limit is not None and promise.allowance_usd > limit:
        raise BudgetStop(
            f"job {job.name}: the plan costs {show_usd(promise.cost_usd)}"
            f" ({promise.search_units:,} search units), with retries up to"
            f" {show_usd(promise.allowance_usd)}, over budget.max_usd {show_usd(limit)}: nothing is"
            " sent; raise the budget, set candidates.top_k, or try a part with --limit-queries"
        )
