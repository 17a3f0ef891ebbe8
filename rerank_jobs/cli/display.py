"""What people see: the promise, live progress, the result. Never a query, a document or a key."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rerank_jobs.budgets import Outlook
from rerank_jobs.cli.figures import list_sending
from rerank_jobs.config import API_SEARCH_USD, Job
from rerank_jobs.dollars import show_usd
from rerank_jobs.job import Planned, RunResult, open_roots
from rerank_jobs.plan.promise import SAVINGS, Promise
from rerank_jobs.publish.generations import Generation
from rerank_jobs.score import Progress

__all__ = ["RunDisplay", "format_duration", "print_promise", "print_result"]

PLAIN_SECONDS = 10.0


def format_duration(seconds: float) -> str:
    """Return a duration in the largest sensible unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def print_promise(console: Console, job: Job, planned: Planned) -> None:
    """Print what a plan will do and cost, or that it is published already."""
    promise = planned.promise
    where = "" if planned.partition == "_all" else f", partition {planned.partition}"
    console.print(Text(f"Plan {planned.plan_id[:8]} of job {job.name}{where}", style="bold"))
    if planned.current is not None:
        console.print(_describe_published(planned, planned.current), soft_wrap=True)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in [*_promise_rows(job, promise), *_paid_rows(planned), *_budget_rows(planned.outlook)]:
        table.add_row(*row)
    console.print(table)


def _describe_published(planned: Planned, current: Generation) -> str:
    if not planned.withdrawn:
        return f"Already published as generation {current.number}: nothing to send."
    return (
        f"This plan is withdrawn: generation {current.number} went back to generation"
        f" {current.document.get('restores')}. Nothing is sent or changed. To bring it back:"
        " rerank-jobs paths --generations lists its number, publish --generation takes it."
    )


def _promise_rows(job: Job, promise: Promise) -> list[tuple[str, str]]:
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in promise.reasons.items())
    put_aside = f"; {rejected} put aside" if rejected else ""
    cut = f"; {promise.candidates_cut:,} cut by top_k" if promise.candidates_cut else ""
    price = f"{show_usd(promise.cost_usd)}, at most {show_usd(promise.allowance_usd)} with"
    price += " retries"
    if job.endpoint.embedded:
        price = f"nothing (embedded endpoint; {show_usd(promise.api_usd)} on the API)"
    pairs = f"{promise.pairs:,} pairs to rank"
    over = promise.search_units - promise.bound_units
    to_send = (
        f"{promise.requests:,} requests, {promise.search_units:,} search units"
        f" ({over:,} over the lower bound)"
    )
    if job.endpoint.token_price_usd or job.endpoint.token_pace:
        to_send += f", {promise.tokens:,} tokens"
    return [
        ("Rows", f"{promise.rows_in:,} in, {promise.rows_out:,} out{put_aside}{cut}"),
        ("Queries", f"{promise.queries:,} texts in {promise.groups:,} groups, {pairs}"),
        ("Passages", f"{promise.passages:,}, of which {promise.passages_reused:,} paid earlier"),
        ("To send", to_send),
        *_naive_rows(job, promise),
        ("Price", price),
        *_reading_rows(job, promise),
        *_reuse_rows(job, promise),
        ("Time", _describe_time(job, promise)),
    ]


def _naive_rows(job: Job, promise: Promise) -> list[tuple[str, str]]:
    """Say what sending each group as it stands would cost, and what planning saves of it."""
    if not promise.savings:
        return []
    naive = _show_cost(job, promise.naive_units, promise.naive_usd)
    parts = []
    for name in SAVINGS:
        units, usd = promise.savings[name]["search_units"], promise.savings[name]["cost_usd"]
        if units > 0 or usd > 0:
            parts.append(f"{_SAVED[name]} {_show_cost(job, units, usd)}")
        elif units < 0:
            parts.append(f"limits on a request add {_show_cost(job, -units, -usd)}")
    text = f"{naive} (one request per group as it stands)"
    return [("Naive price", "; ".join([text, ", ".join(parts)]) if parts else text)]


_SAVED = {
    "singles": "single candidates save",
    "deduplication": "deduplication saves",
    "reuse": "reuse saves",
    "packing": "packing saves",
}


def _show_cost(job: Job, units: float, usd: float) -> str:
    """Show dollars; on the API if embedded, search units where nothing has a price."""
    if job.endpoint.embedded:
        return show_usd(units * API_SEARCH_USD)
    if job.endpoint.price_usd == 0 and job.endpoint.token_price_usd == 0:
        return f"{units:,.0f} units"
    return show_usd(usd)


def _reading_rows(job: Job, promise: Promise) -> list[tuple[str, str]]:
    """Name both totals, where the two readings of the 500-token rule differ."""
    once, carried = (promise.units_by_reading.get(name, 0) for name in ("I1", "I2"))
    if once == carried:
        return []
    price = job.endpoint.price_usd
    cheaper = f", {show_usd((carried - once) * price)} less" if price else ""
    text = f"{once:,} search units{cheaper}, if the query counts once for a long passage (I1)"
    return [("Or", f"{text}; planned with {carried:,}, if it counts with each 500 tokens (I2)")]


def _reuse_rows(job: Job, promise: Promise) -> list[tuple[str, str]]:
    """Name price and passages of both modes of reuse, where they differ."""
    modes = promise.by_reuse
    if not modes or modes["cheapest"] == modes["strict"]:
        return []
    parts = [
        f"{mode} {_show_cost(job, one['search_units'], one['cost_usd'])},"
        f" {one['passages']:,.0f} passages sent"
        for mode, one in modes.items()
    ]
    return [("By reuse", "; ".join(parts) + f" (this plan: {job.reuse.mode})")]


def _describe_time(job: Job, promise: Promise) -> str:
    """Say how long it takes at the limit that takes longest."""
    pace, token_pace = job.endpoint.pace, job.endpoint.token_pace
    by_tokens = promise.tokens / token_pace if token_pace else 0.0
    if token_pace and by_tokens >= (promise.requests / pace if pace else 0.0):
        return f"{format_duration(promise.seconds)} at {token_pace:,} tokens a minute"
    if pace:
        return f"{format_duration(promise.seconds)} at {pace:,} requests a minute"
    return "as fast as it answers"


def _paid_rows(planned: Planned) -> list[tuple[str, str]]:
    paid = planned.paid
    if paid is None or not paid.requests:
        return []
    return [
        ("Of it paid", f"{paid.requests:,} requests, {show_usd(paid.cost_usd)}: not sent again")
    ]


def _budget_rows(outlook: Outlook) -> list[tuple[str, str]]:
    return [("Budget", outlook.describe())] if outlook.caps else []


class RunDisplay:
    """Live progress on a terminal, a plain line every ten seconds elsewhere; close it after use."""

    def __init__(self, console: Console) -> None:
        """Show on ``console``."""
        self._console = console
        self._promise: Promise | None = None
        self._live: Live | None = None
        self._started = self._last_line = time.monotonic()
        self._shards: dict[int, Progress] = {}

    def start(self, promise: Promise) -> None:
        """Begin to show progress towards a promise."""
        self._promise = promise
        self._started = self._last_line = time.monotonic()
        if self._console.is_terminal and promise.requests:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def observe(self, shard: int, progress: Progress) -> None:
        """Take a snapshot of a shard's progress."""
        self._shards[shard] = progress
        if self._live is not None:
            self._live.update(self._picture(progress))
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(self._line(progress), soft_wrap=True)

    def close(self) -> None:
        """Remove the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self, now: Progress) -> Table:
        done = sum(progress.replies for progress in self._shards.values())
        planned = self._promise.requests if self._promise else 0
        picture = Table.grid(padding=(0, 1))
        picture.add_row(
            ProgressBar(total=max(1, planned), completed=done, width=24), self._line(now)
        )
        return picture

    def _line(self, now: Progress) -> str:
        done = self._shards.values()
        replies = sum(progress.replies for progress in done)
        passages = sum(progress.passages_scored for progress in done)
        usd = sum(progress.cost_usd for progress in done)
        planned = self._promise.requests if self._promise else 0
        elapsed = max(1e-9, time.monotonic() - self._started)
        left = format_duration((planned - replies) * elapsed / replies) if replies else "?"
        limit = f" of {now.limit_per_minute:,.0f}" if now.limit_per_minute else ""
        extra = f", {now.deferred:,} waiting to be sent again" if now.deferred else ""
        pause = f", paused for {now.pause_seconds:.0f} s (429)" if now.pause_seconds > 0 else ""
        return (
            f"{replies:,}/{planned:,} requests, {passages:,} passages, ${usd:,.3f},"
            f" {now.per_minute:,.0f}{limit} a minute, {left} left{extra}{pause}"
        )


def print_result(console: Console, job: Job, result: RunResult) -> None:
    """Print what a run did."""
    totals = result.totals
    sent = (
        f"{totals.requests:,} requests, {totals.search_units:,} search units,"
        f" {show_usd(totals.cost_usd)}"
    )
    if totals.requests == 0:
        sent = "nothing"
    console.print(f"Sent: {sent}, in {result.seconds:.1f} s")
    for line in list_sending(totals):
        console.print(line)
    counts = ", ".join(f"{count:,} {name}" for name, count in result.statuses.items() if count)
    console.print(f"Documents: {counts or 'none'}")
    if result.spent.segments_ignored:
        console.print(
            f"Ignored: {result.spent.segments_ignored:,} damaged or foreign segments: what they"
            " held is sent again; rerank-jobs ledger stats names them",
            soft_wrap=True,
        )
    if result.generation is None:
        state = open_roots(job).state.location
        console.print(
            "A sample: not published; its scores are kept for the full run. Look at it here:"
        )
        for part in result.sample:
            console.print(f"  {state}/{part.name}", soft_wrap=True)
        return
    name = job.partition_folder(result.partition)
    folder = f"/{name}" if name else ""
    console.print(
        f"Generation {result.generation.number}: {job.output_root}{folder}", soft_wrap=True
    )
    if result.generation.rejected:
        console.print(f"Put aside: {job.rejected_root}{folder}", soft_wrap=True)
