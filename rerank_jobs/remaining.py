"""What a shard still has to send: its planned requests, without what is paid for already.

A plan is frozen with the scores that were known then. While it waits, other plans may pay for some
of its pairs: those scores are taken over into its own segments, without a request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from rerank_jobs.config import Job
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.library import find_scores
from rerank_jobs.ledger.loading import Loaded
from rerank_jobs.ledger.segments import encode_rows, make_free_rows, segment_name
from rerank_jobs.model import Passage, Request
from rerank_jobs.parts import iterate_work
from rerank_jobs.plan.build import connect, explain_disk
from rerank_jobs.plan.frozen import Plan, ShardPlan, run_folder
from rerank_jobs.plan.packing import search_units
from rerank_jobs.plan.scripts import name_script
from rerank_jobs.score import ranks_listwise
from rerank_jobs.storage import Put, Store, scratch_folder

__all__ = ["carry_over", "read_requests"]

KEYS = pa.schema([("query_key", pa.binary(16)), ("passage_key", pa.binary(16))])


def carry_over(
    job: Job, plan: Plan, shard: ShardPlan, loaded: Loaded, *, store: Store, epoch: int
) -> int:
    """Seal scores of the library that came into it after planning; return how many.

    As ``reuse.mode`` says: ``strict`` takes every score that is known, ``cheapest`` those that
    make a request smaller by a search unit, or needless. They are the claim's segment 0.

    Raises:
        StateError: the library is damaged, or another process writes under the same claim.

    """
    if job.reuse.mode == "off" or ranks_listwise(job.endpoint):
        return 0
    cutoff = datetime.now(UTC) - timedelta(days=job.reuse.max_age_days)
    lookup = find_scores(store, plan.scorer_id, cutoff, seen=plan.library)
    if lookup.sql is None:
        return 0
    found = _look_up(job, store, lookup.sql, read_requests(store, shard, loaded))
    keys = _join_keys(found)
    known, useful = set(keys), set[bytes]()
    for request in read_requests(store, shard, loaded) if known else ():
        useful |= _choose(request, known, strict=job.reuse.mode == "strict")
    if not useful:
        return 0
    taken = found.filter(pa.array([key in useful for key in keys]))
    name = segment_name(run_folder(plan.partition, plan.plan_id, shard.number), epoch, 0)
    data = encode_rows(make_free_rows(taken, plan.plan_id))
    if store.put_if_absent(name, data) is Put.OTHER:
        raise StateError(
            f"{store.location}/{name}: another process wrote this segment under our claim:"
            " do not run two copies of one owner"
        )
    return taken.num_rows


def _look_up(job: Job, store: Store, sql: str, requests: Iterator[Request]) -> pa.Table:
    pairs = [
        (request.query_key, passage.key) for request in requests for passage in request.passages
    ]
    columns = [pa.array([pair[i] for pair in pairs], pa.binary(16)) for i in range(2)]
    sends = pa.table(columns, schema=KEYS)
    with (
        scratch_folder(store.location) as scratch,
        explain_disk(scratch),
        contextlib.closing(connect(scratch, job.memory)) as con,
    ):
        con.register("sends", sends)
        found: pa.Table = con.sql(sql).to_arrow_table()
        return found


def _join_keys(pairs: pa.Table) -> list[bytes]:
    columns: list[list[Any]] = [pairs.column(name).to_pylist() for name in KEYS.names]
    return [query + passage for query, passage in zip(*columns, strict=True)]


def _choose(request: Request, known: set[bytes], *, strict: bool) -> set[bytes]:
    """Return the keys of a request's pairs whose known scores are used."""
    keys = [request.query_key + passage.key for passage in request.passages]
    left = [p for key, p in zip(keys, request.passages, strict=True) if key not in known]
    units = search_units(sum(passage.chunks for passage in left)) if left else 0
    if strict or units < request.search_units:
        return {key for key in keys if key in known}
    return set()


def read_requests(
    store: Store, shard: ShardPlan, loaded: Loaded, *, retry_failed: bool = False
) -> Iterator[Request]:
    """Yield the shard's planned requests in order, without the passages that are sealed already."""
    if retry_failed:
        scored = loaded.pairs.filter(pa.compute.is_valid(loaded.pairs.column("score")))
        loaded = Loaded(scored, loaded.spent, loaded.segments, loaded.torn)
    sealed = loaded.keys()
    waiting: dict[int, list[Passage]] = {}
    query_key, query = b"", ""
    for row_query_key, row_query, key, text, tokens, chunks, number in _rows(store, shard):
        if row_query_key != query_key:
            yield from _make_requests(query_key, query, waiting)
            query_key, query, waiting = row_query_key, row_query, {}
        if number >= 0 and row_query_key + key not in sealed:
            waiting.setdefault(number, []).append(Passage(key, text, chunks, tokens))
    yield from _make_requests(query_key, query, waiting)


def _rows(store: Store, shard: ShardPlan) -> Iterator[tuple[bytes, str, bytes, str, int, int, int]]:
    numbers = iter(_request_numbers(store, shard))
    names = ("query_key", "query", "passage_key", "text", "tokens", "chunks")
    for batch in iterate_work(store, shard.files["passages"]):
        columns = [batch.column(name).to_pylist() for name in names]
        for values in zip(*columns, strict=True):
            yield (*values, next(numbers))


def _request_numbers(store: Store, shard: ShardPlan) -> Iterator[int]:
    for batch in iterate_work(store, shard.files["schedule"]):
        numbers: list[Any] = batch.column("request").to_pylist()
        yield from numbers


def _make_requests(
    query_key: bytes, query: str, waiting: dict[int, list[Passage]]
) -> Iterator[Request]:
    for number in sorted(waiting):
        passages = waiting[number]
        units = search_units(sum(passage.chunks for passage in passages))
        script = name_script(passages[0].text)
        yield Request(number, query_key, query, tuple(passages), units, script)
