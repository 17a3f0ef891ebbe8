"""Credit against plan: what the key may still spend, asked before a run costs anything."""

from __future__ import annotations

from rerank_jobs.config import Job, read_api_key
from rerank_jobs.dollars import show_usd
from rerank_jobs.errors import CreditStop, KeyStop
from rerank_jobs.job import Planned
from rerank_jobs.score import KeyReply, ask_account, read_access

__all__ = ["ask_credit", "check_credit", "describe_credit"]


def ask_credit(job: Job, planned: Planned) -> KeyReply | None:
    """Return what the endpoint says of the key; ``None`` where there is nothing to ask.

    Nothing is asked of another dialect, without a key, or for a plan that sends nothing: a price
    can be had without a network.
    """
    endpoint = job.endpoint
    silent = endpoint.embedded or endpoint.dialect != "openrouter"
    if silent or planned.current is not None or not planned.promise.requests:
        return None
    try:
        key, access = read_api_key(endpoint), read_access(endpoint, job.resolve)
    except KeyStop:
        return None
    return ask_account(endpoint, key, access) if key is not None else None


def describe_credit(reply: KeyReply, planned: Planned) -> str:
    """Return one line: what may still be spent, and whether that is enough for the plan."""
    account = reply.account
    if account is None:
        return f"unknown: {reply.reason}"
    if account.remaining is None:
        used = "" if account.usage is None else f"; {show_usd(account.usage)} used so far"
        return f"the key has no limit of its own{used}"
    cost, most = _find_needed(planned)
    left = show_usd(account.remaining)
    if account.remaining < cost:
        return (
            f"{left} remain, the plan may cost {show_usd(cost)}: it cannot suffice:"
            " add credit or raise the key's limit"
        )
    enough = "enough" if account.remaining >= most else f"enough, but not for {show_usd(most)}"
    return f"{left} remain of the key's limit: {enough}"


def check_credit(job: Job, planned: Planned) -> None:
    """Ask and compare, before the first request of a run.

    Raises:
        CreditStop: less remains than the plan is going to cost; nothing was sent.

    """
    reply = ask_credit(job, planned)
    remaining = reply.account.remaining if reply and reply.account else None
    cost, _ = _find_needed(planned)
    if remaining is not None and remaining < cost:
        raise CreditStop(
            f"job {job.name}: {show_usd(remaining)} remain of the limit of the key in"
            f" {job.endpoint.api_key_env}, the plan is going to cost {show_usd(cost)}: nothing is"
            " sent; add credit or raise the key's limit, and run again"
        )


def _find_needed(planned: Planned) -> tuple[float, float]:
    """Return what the plan is still going to cost, and the most that it may: dollars."""
    promise, paid = planned.promise, planned.paid
    spent = 0.0 if paid is None else paid.cost_usd
    # Rounded to what amounts are kept to: a difference of floats must not refuse an equal one.
    cost, most = (round(usd - spent, 6) for usd in (promise.cost_usd, promise.allowance_usd))
    return max(0.0, cost), max(0.0, most)
