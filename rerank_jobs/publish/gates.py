"""Gates: what must hold before anything becomes visible."""

from __future__ import annotations

from pathlib import Path

import duckdb

from rerank_jobs.config import Job
from rerank_jobs.errors import GateFailed, StateError
from rerank_jobs.publish.documents import open_documents
from rerank_jobs.publish.generations import Generation, Part
from rerank_jobs.publish.orders import PublishOrder, Roots, ShardPart, add_statuses
from rerank_jobs.publish.ranking import (
    add_rankings,
    compare_firsts,
    count_ranking,
    read_firsts,
)
from rerank_jobs.publish.retention import is_whole

__all__ = ["check_gates", "check_guards"]


def check_gates(job: Job, order: PublishOrder) -> None:
    """Check that the parts are all that was planned, and that not too many documents failed.

    Raises:
        GateFailed: too many documents failed.
        StateError: the parts do not add up to the plan.

    """
    rows = sum(shard.part.rows for shard in order.shards if shard.part)
    counts = add_statuses(order.shards)
    documents = sum(counts.values())
    if (rows, documents) != (order.rows, order.documents):
        raise StateError(
            f"plan {order.plan_id[:8]}: parts hold {rows:,} rows and {documents:,} documents, the"
            f" plan {order.rows:,} and {order.documents:,}: nothing was published; run again"
        )
    failed = counts.get("failed", 0)
    fraction = failed / documents if documents else 0.0
    again = "run again with --retry-failed to send them once more"
    if failed and job.failures.on_failed == "fail":
        raise GateFailed(
            f"{failed:,} of {documents:,} documents failed (failures.on_failed: fail): {again}"
        )
    if fraction > job.failures.max_failed_fraction:
        raise GateFailed(
            f"{failed:,} of {documents:,} documents failed ({fraction:.2%}, over"
            f" failures.max_failed_fraction {job.failures.max_failed_fraction:.2%}): nothing was"
            f" published; {again}, or allow more"
        )


def check_guards(
    job: Job, roots: Roots, order: PublishOrder, current: Generation | None
) -> dict[str, int] | None:
    """Check how far the ranking moved; return the figures for the manifest.

    ``None`` where a shard was finished by an earlier version and no guard asks for its figures.
    The comparison with ``current`` is made where a guard asks for it.

    Raises:
        GateFailed: it moved further than a guard allows, or nobody can tell.

    """
    guards = job.publish
    asked = {guards.max_top1_changed, guards.max_top1_changed_since, guards.max_all_equal} != {None}
    counts = [
        _count_again(job, roots, shard) if shard.ranking is None and asked else shard.ranking
        for shard in order.shards
    ]
    known = [one for one in counts if one is not None]
    if len(known) < len(counts):
        return None
    figures = add_rankings(known)
    changed, groups = figures["top1_changed"], figures["groups"]
    words = "begin with another document than in the first stage"
    _check(roots, order, "max_top1_changed", guards.max_top1_changed, changed, groups, words)
    equal, groups = figures["all_equal"], figures["scored_groups"]
    words = "have one score for all of their documents"
    _check(roots, order, "max_all_equal", guards.max_all_equal, equal, groups, words)
    limit = guards.max_top1_changed_since
    if limit is not None and current is not None:
        groups, changed = _compare(job, roots, order, current)
        figures |= {"since": current.number, "since_groups": groups, "since_changed": changed}
        words = f"begin with another document than in generation {current.number}"
        _check(roots, order, "max_top1_changed_since", limit, changed, groups, words)
    return figures


def _check(
    roots: Roots,
    order: PublishOrder,
    guard: str,
    limit: float | None,
    count: int,
    groups: int,
    words: str,
) -> None:
    share = count / groups if groups else 0.0
    if limit is not None and share > limit:
        raise GateFailed(
            f"{count:,} of {groups:,} groups {words} ({share:.2%}, over publish.{guard}"
            f" {limit:.2%}): nothing was published; look at the parts in"
            f" {roots.state.location}/{order.partition}/run/{order.plan_id}, then raise or remove"
            " the guard and run again: nothing is paid again"
        )


def _count_again(job: Job, roots: Roots, shard: ShardPart) -> dict[str, int]:
    """Count from the part itself: an earlier version left no figures."""
    with duckdb.connect() as con:
        if shard.part is None:
            return add_rankings([])
        open_documents(con, job, [roots.state.fetch(shard.part.name)])
        return count_ranking(con, "documents")


def _compare(job: Job, roots: Roots, order: PublishOrder, current: Generation) -> tuple[int, int]:
    parts = [shard.part for shard in order.shards if shard.part]
    now = [roots.state.fetch(part.name) for part in parts]
    before = [_fetch(roots, part, current) for part in current.parts]
    policy = current.document["policy"]
    return compare_firsts(
        read_firsts(now, job.input.layout, job.input.columns.model_dump()),
        read_firsts(before, current.document["layout"], policy["columns"]),
        roots.state.location,
        job.memory,
    )


def _fetch(roots: Roots, part: Part, current: Generation) -> Path:
    """Return a published file, or its copy under state, wherever it is whole."""
    for store, name in ((roots.output, part.name), (roots.state, part.source)):
        if name is not None and is_whole(store, name, part):
            return store.fetch(name)
    raise GateFailed(
        f"{roots.output.location}/{part.name}: gone or damaged, so nobody can tell how far the"
        f" ranking moved since generation {current.number} (publish.max_top1_changed_since):"
        " restore it, or remove the guard, and run again: nothing is paid again"
    )
