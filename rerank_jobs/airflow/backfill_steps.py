"""What the tasks of a backfill do, over parameters, ids and counts; small JSON in and out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rerank_jobs.airflow.steps import load
from rerank_jobs.backfill import (
    Admission,
    admit_partition,
    choose_budget,
    count_spent,
    list_keys,
    price_range,
    show_price,
)
from rerank_jobs.dollars import show_usd
from rerank_jobs.errors import InputError

__all__ = ["admit", "check_summary", "price", "sum_up"]

log = logging.getLogger(__name__)

Outcome = tuple[str, str, Mapping[str, Any] | None]
"""A partition, the state of its run, and what ``admit`` said."""


def price(params: Mapping[str, Any]) -> dict[str, Any]:
    """Price the range that the parameters name; nothing is frozen or sent.

    Raises:
        JobError: the parameters name no range, or there is no budget.
        StateError: see ``rerank_jobs.planning``.

    """
    job = load(params["job"], params["conn_id"])
    keys = list_keys(
        params["from"] or "",
        params["to"] or "",
        params["partitions"] or (),
        key_format=params["key_format"],
    )
    budget = choose_budget(job, params["budget_usd"])
    priced = price_range(job, keys)
    table = show_price(priced, budget)
    log.info("Price of %d partitions:\n%s", len(keys), table)
    for one in priced.partitions:
        if one.problem:
            log.warning("Partition %s is %s: %s", one.partition, one.state, one.problem)
    return priced.to_json() | {
        "open": list(priced.list_open()),
        "budget_usd": budget,
        "may_spend_usd": round(min(priced.most_usd, budget), 6),
        "table": table,
    }


def admit(params: Mapping[str, Any], partitions: Sequence[str], refusal: str) -> dict[str, Any]:
    """Freeze a partition's plan if its whole price fits what this backfill has left.

    ``partitions`` are those of the backfill, whose payments since it began count; with a
    ``refusal`` the table is not looked at.

    Raises:
        JobError, InputError, StateError, KeyStop: see ``rerank_jobs.backfill.admit_partition``.

    """
    partition, backfill = params["partition"], params["backfill"]
    job = load(params["job"], params["conn_id"])
    spent = count_spent(job, partitions, float(backfill["since"]))
    left = max(0.0, float(backfill["budget_usd"]) - spent)
    if refusal:
        said = Admission(partition, admitted=False, price_usd=0.0, left_usd=left, reason=refusal)
    else:
        said = admit_partition(job, partition, left)
    if said.admitted:
        log.info(
            "Partition %s is admitted: it may cost %s, and %s of %s are left",
            partition,
            show_usd(said.price_usd),
            show_usd(left),
            show_usd(float(backfill["budget_usd"])),
        )
    else:
        log.warning("Partition %s is left: %s", partition, said.reason)
    return said.to_json()


def sum_up(
    params: Mapping[str, Any],
    priced: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    since: float,
    *,
    rejected: bool = False,
) -> dict[str, Any]:
    """Return what the backfill published, left, failed and spent."""
    job = load(params["job"], params["conn_id"])
    prices = {one["partition"]: one for one in priced["partitions"]}
    published, left, failed = [], [], []
    for partition, state, admission in outcomes:
        if state != "success":
            failed.append(partition)
        elif admission is not None and admission["admitted"]:
            published.append(partition)
        else:
            left.append(partition)
    if rejected:
        left = list(priced["open"])
    by_state = {
        state: [one["partition"] for one in priced["partitions"] if one["state"] == state]
        for state in ("published", "missing", "unusable")
    }
    summary = {
        "rejected": rejected,
        "published": published,
        "left": {partition: round(prices[partition]["most_usd"], 6) for partition in left},
        "failed": failed,
        "published_before": by_state["published"],
        "missing": by_state["missing"],
        "unusable": by_state["unusable"],
        "spent_usd": round(count_spent(job, priced["open"], since), 6),
        "budget_usd": priced["budget_usd"],
    }
    _tell(summary)
    return summary


def _tell(summary: Mapping[str, Any]) -> None:
    if summary["rejected"]:
        log.warning("The backfill was rejected: nothing was sent")
    for name in ("published", "published_before", "missing", "unusable", "failed"):
        if summary[name]:
            title = name.replace("_", " ").capitalize()
            log.info("%s (%d): %s", title, len(summary[name]), ", ".join(summary[name]))
    if summary["left"] and not summary["rejected"]:
        named = ", ".join(f"{key} ({show_usd(usd)})" for key, usd in summary["left"].items())
        log.warning(
            "Left for want of budget (%d): %s: run again with a new budget, nothing is paid twice",
            len(summary["left"]),
            named,
        )
    spent, budget = show_usd(summary["spent_usd"]), show_usd(summary["budget_usd"])
    log.info("Spent %s of %s", spent, budget)


def check_summary(summary: Mapping[str, Any]) -> None:
    """Refuse to end well where a partition failed or could not be read; the others stay published.

    Raises:
        InputError: names them.

    """
    wrong = [*summary["failed"], *summary["unusable"]]
    if wrong:
        raise InputError(
            f"{len(wrong)} of the partitions failed ({', '.join(wrong)}): see their runs and the"
            " task price, mend the cause and run the backfill again: nothing is paid twice"
        )
