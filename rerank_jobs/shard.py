"""One shard from claim to ``done.json``: what an Airflow task or a command-line run does for it.

Paid replies are sealed before anything else happens to them; a shard that is done is returned
without spending anything; whoever lost the shard to another owner writes nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from rerank_jobs.budgets import explain_stop, find_tightest, is_free, read_caps
from rerank_jobs.config import Context, Job, read_api_key
from rerank_jobs.errors import RerankJobsError, StateError
from rerank_jobs.ledger.claims import Claim, acquire
from rerank_jobs.ledger.loading import Loaded, load_segments
from rerank_jobs.ledger.sealing import SegmentWriter
from rerank_jobs.ledger.spending import read_unsealed
from rerank_jobs.model import Passage, Request, ScoreTotals
from rerank_jobs.parts import finish_shard, read_done
from rerank_jobs.plan.frozen import Plan, ShardPlan, run_folder
from rerank_jobs.plan.tokens import estimate_text
from rerank_jobs.plan.windows import MIN_LIMIT, cut_windows
from rerank_jobs.publish.publisher import ShardPart
from rerank_jobs.remaining import carry_over, read_requests
from rerank_jobs.score import (
    DIALECTS,
    Progress,
    RedisLimitStore,
    ScoreSettings,
    open_client,
    read_access,
    read_shared_limit,
    score_requests,
)
from rerank_jobs.storage import Store, read_json, seal_json

__all__ = ["Bounds", "ShardResult", "score_shard"]


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A finished shard, what this process spent on it, and what of the extra dollars it took."""

    part: ShardPart
    totals: ScoreTotals
    extra_used_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far one run of a shard may go.

    ``extra_usd`` may be spent beyond the shard's allowance, but not beyond a budget of the day or
    month; after ``max_seconds`` nothing more is sent; with ``retry_failed`` what the endpoint
    refused earlier is sent once more.
    """

    retry_failed: bool = False
    extra_usd: float = 0.0
    max_seconds: float | None = None


def score_shard(
    job: Job,
    plan: Plan,
    number: int,
    *,
    store: Store,
    owner: dict[str, Any],
    transport: Callable[[], httpx.AsyncBaseTransport | None],
    observe: Callable[[Progress], None] | None = None,
    bounds: Bounds = Bounds(),
) -> ShardResult:
    """Score what the ledger does not have, merge, and leave a valid ``done.json``.

    ``transport`` opens the way to the endpoint, ``None`` for the network.

    Raises:
        Busy, Fenced: another owner has the shard.
        Stopped, Interrupted: resumable; everything paid is sealed.

    """
    shard = plan.shards[number]
    folder = run_folder(plan.partition, plan.plan_id, number)
    done = read_done(store, folder)
    if done is not None and not (bounds.retry_failed and done.statuses.get("failed")):
        return ShardResult(done, ScoreTotals())
    reserved = 0.0 if is_free(job.endpoint) else shard.allowance_usd + bounds.extra_usd
    claim = acquire(store, folder, owner, reserved_usd=reserved if shard.requests else 0.0)
    with claim:
        if done is not None:
            store.delete(f"{folder}/done.json")
        loaded = load_segments(store, folder, plan.plan_id)
        totals, extra = ScoreTotals(), 0.0
        if shard.requests:
            carried = carry_over(job, plan, shard, loaded, store=store, epoch=claim.epoch)
            first = int(carried > 0)  # theirs is segment 0 of this claim
            if carried:
                loaded = load_segments(store, folder, plan.plan_id)
            requests = read_requests(store, shard, loaded, retry_failed=bounds.retry_failed)
            left = _find_left(job, shard, store, folder, loaded)
            most = None if left is None else left + bounds.extra_usd
            cap = find_tightest(read_caps(job, store, time.time(), ours=folder), most)
            most = most if cap is None else cap.left_usd
            settings = ScoreSettings.from_endpoint(job.endpoint, most, bounds.max_seconds)
            sent = _send(job, plan, requests, settings, store, claim, transport, observe, first)
            totals = sent.totals
            _record(store, folder, claim.epoch, sent, loaded, carried)
            if sent.crash is not None:
                raise sent.crash
            if sent.stop is not None:
                claim.check()
                raise explain_stop(sent.stop, cap)
            if left is not None:
                spent = totals.cost_usd + totals.unknown_usd + totals.wasted_usd
                extra = max(0.0, spent - max(left, 0.0))
        claim.check()
        part = finish_shard(job, plan, shard, store=store, check=claim.check)
        return ShardResult(part, totals, extra)


def _find_left(
    job: Job, shard: ShardPlan, store: Store, folder: str, loaded: Loaded
) -> float | None:
    """Return the dollars that the shard may still spend, ``None`` where nothing costs anything.

    Sends of unknown fate and replies of no use of earlier processes count as spent; what a killed
    process had in flight left no record, and is bounded by its concurrency.
    """
    if job.endpoint.embedded:
        return None
    unsealed = 0.0
    for entry in store.entries(folder):
        if entry.name.startswith(f"{folder}/run-"):
            with contextlib.suppress(StateError):  # a torn record must not stop the shard
                unsealed += read_unsealed(read_json(store, entry.name))
    return shard.allowance_usd - loaded.spent.cost_usd - unsealed


@dataclass(slots=True)
class _Sent:
    """What sending did: why it stopped early, or what broke it, and what of it no segment holds."""

    totals: ScoreTotals = field(default_factory=ScoreTotals)
    stop: RerankJobsError | None = None
    crash: Exception | None = None
    unsealed_usd: float = 0.0

    def conclude(self, totals: ScoreTotals) -> None:
        self.totals = totals


def _send(
    job: Job,
    plan: Plan,
    requests: Iterator[Request],
    settings: ScoreSettings,
    store: Store,
    claim: Claim,
    transport: Callable[[], httpx.AsyncBaseTransport | None],
    observe: Callable[[Progress], None] | None,
    first: int,
) -> _Sent:
    key, access = read_api_key(job.endpoint), read_access(job.endpoint, job.resolve)
    shared = read_shared_limit(job.endpoint, settings, key, access, job.resolve)
    sent = _Sent()

    async def send() -> None:
        limit_store = None if shared is None else RedisLimitStore(shared)
        client = open_client(job.endpoint, key, access=access, transport=transport())
        ledger = SegmentWriter(
            store, claim.folder, claim.epoch, plan.plan_id, job.ledger, first=first
        )
        with _stop_on_signal(claim) as stop:
            try:
                async with ledger:
                    result = await score_requests(
                        requests,
                        settings=settings,
                        client=client,
                        dialect=DIALECTS[job.endpoint.dialect],
                        accept=ledger.accept,
                        shorten=functools.partial(_shorten, job.context),
                        observe=observe,
                        conclude=sent.conclude,
                        stop=stop,
                        limit_store=limit_store,
                    )
                sent.stop = result.stop
            except Exception as error:  # noqa: BLE001 - raised again once its cost is recorded
                sent.crash = error
            finally:
                sent.unsealed_usd = ledger.unsealed_usd
                await client.aclose()
                if limit_store is not None:
                    await limit_store.aclose()

    asyncio.run(send())
    return sent


def _shorten(context: Context, passage: Passage, parts: int) -> list[str]:
    """Cut a passage that the endpoint calls too long into windows of about a ``parts``-th each."""
    if context.long_documents == "fail":
        return []
    limit = max(MIN_LIMIT, -(-estimate_text(passage.text) // parts))
    return cut_windows(passage.text, limit, min(context.overlap_tokens, limit // 4))


@contextlib.contextmanager
def _stop_on_signal(claim: Claim) -> Iterator[asyncio.Event]:
    """Yield an event that SIGINT, SIGTERM and the loss of the claim set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    claim.on_fenced = lambda: loop.call_soon_threadsafe(stop.set)
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):
            # Elsewhere than in the main thread signals are somebody else's.
            before[number] = signal.getsignal(number)
            loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        claim.on_fenced = lambda: None
        for number, handler in before.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)


def _record(
    store: Store, folder: str, epoch: int, sent: _Sent, loaded: Loaded, carried: int
) -> None:
    """Leave what this process did beside the segments: for people, and for what money is left."""
    ended_by = sent.crash or sent.stop
    document = {
        "epoch": epoch,
        "ended_at": time.time(),
        "totals": asdict(sent.totals),
        "unsealed_usd": sent.unsealed_usd,
        "stop": type(ended_by).__name__ if ended_by else None,
        "scores_carried": carried,
        "segments_before": len(loaded.segments),
        "segments_ignored": list(loaded.torn),
    }
    # What broke the run is told, not that a broken disk did not take the record either.
    with contextlib.suppress(*((OSError,) if sent.crash else ())):
        store.put_if_absent(f"{folder}/run-{epoch:08d}.json", seal_json(document))
