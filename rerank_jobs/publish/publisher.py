"""Publishing a plan: gates, parts copied into place, one commit, then what is superseded goes.

A reader that follows manifests sees the old generation or the new one, never a mixture. Publishing
the plan that is current already changes nothing; going back to an earlier one is a new generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from rerank_jobs import __version__
from rerank_jobs.config import Job
from rerank_jobs.contracts import contract_versions
from rerank_jobs.errors import Busy, StateError
from rerank_jobs.publish.gates import check_gates, check_guards
from rerank_jobs.publish.generations import (
    Generation,
    Part,
    Superseded,
    commit,
    read_current,
    read_generations,
)
from rerank_jobs.publish.leftovers import announce_copies, publish_folder, tidy
from rerank_jobs.publish.orders import PublishOrder, Roots, ShardPart, add_statuses
from rerank_jobs.publish.retention import (
    check_source,
    find_damaged,
    is_mendable,
    is_retained,
    mend,
    place,
)
from rerank_jobs.storage import Store

__all__ = [
    "PublishOrder",
    "Roots",
    "ShardPart",
    "find_published",
    "publish_document",
    "publish_folder",
    "publish_plan",
    "restore_generation",
]


def find_published(roots: Roots, partition: str, plan_id: str) -> Generation | None:
    """Return the current generation if the plan need not be published any more.

    That is: it is this plan's, or going back to it withdrew this plan, and all of its files are
    there or can be put back from state.
    """
    current = read_current(roots.state, partition)
    if current is None or plan_id not in (current.plan_id, *current.withdrawn):
        return None
    return current if is_mendable(roots.state, find_damaged(roots, current)) else None


def publish_plan(
    job: Job, roots: Roots, order: PublishOrder, *, check: Callable[[], None] = lambda: None
) -> Generation:
    """Publish the order as the next generation, or return the current one if it is this plan's.

    One process publishes a partition at a time; ``check`` raises if it is no longer this one.
    Files of a current generation of this plan that somebody removed or damaged are put back.

    Raises:
        GateFailed, StateError: see ``check_gates`` and ``check_guards``.
        CommitUnknown: see ``commit``; nothing was deleted.

    """
    keep = job.publish.keep_generations
    while True:
        check()
        published = find_published(roots, order.partition, order.plan_id)
        if published is not None:
            mend(roots, published)
            tidy(roots, order.partition, keep)
            return published
        current = read_current(roots.state, order.partition)
        check_gates(job, order)
        try:
            document = _compose(job, roots, order, current)
            return _land(roots, order.partition, keep, current, document, check)
        except Superseded:
            continue
        except FileNotFoundError:
            # A run that published this plan in the meantime has retired its parts.
            if read_current(roots.state, order.partition) != current:
                continue
            raise StateError(
                f"{roots.state.location}: a finished part of plan {order.plan_id[:8]} is gone: run"
                " again"
            ) from None


def restore_generation(
    job: Job,
    roots: Roots,
    partition: str,
    number: int,
    *,
    check: Callable[[], None] = lambda: None,
) -> Generation:
    """Publish a retained generation's files once more, as the next generation; return that.

    Its ``restores`` names the one gone back to, its ``withdrawn`` the plans published since. A
    number that is current already, or that the current one restores, changes nothing.

    Raises:
        StateError: there is no such generation, or its parts are not retained or damaged.
        CommitUnknown: see ``commit``; nothing was deleted.

    """
    keep = job.publish.keep_generations
    while True:
        check()
        generations = read_generations(roots.state, partition)
        current = generations[-1] if generations else None
        if current and number in (current.number, current.document.get("restores")):
            mend(roots, current, deep=True)
            tidy(roots, partition, keep)
            return current
        wanted = _choose_retained(roots.state, partition, generations, number)
        since = [one.plan_id for one in generations if one.number > number]
        withdrawn = sorted({*since, *wanted.withdrawn} - {wanted.plan_id})
        document = {
            **wanted.document,
            **_sign(),
            "restores": number,
            "withdrawn": withdrawn,
        }
        try:
            return _land(roots, partition, keep, current, document, check)
        except Superseded:
            continue


def publish_document(
    job: Job,
    roots: Roots,
    current: Generation,
    document: dict[str, Any],
    *,
    check: Callable[[], None] = lambda: None,
) -> Generation:
    """Publish files that lie under state as the generation after ``current``; no gate is asked.

    ``document`` is its manifest, but for what every manifest says of itself.

    Raises:
        Busy: another process has published the partition meanwhile.
        CommitUnknown: see ``commit``; nothing was deleted.

    """
    partition, keep = str(document["partition"]), job.publish.keep_generations
    check()
    try:
        return _land(roots, partition, keep, current, {**document, **_sign()}, check)
    except Superseded:
        raise Busy(
            f"partition {partition}: another process published it meanwhile: run again"
        ) from None


def _choose_retained(
    state: Store, partition: str, generations: Sequence[Generation], number: int
) -> Generation:
    """Return a generation whose state parts are there."""
    for one in generations:
        if one.number == number and is_retained(state, one):
            return one
    there = [str(one.number) for one in generations[:-1] if is_retained(state, one)]
    raise StateError(
        f"{state.location}: generation {number} of partition {partition} is not retained: those"
        f" that are: {', '.join(there) or 'none'} (publish.keep_generations says how many)"
    )


def _land(
    roots: Roots,
    partition: str,
    keep: int,
    current: Generation | None,
    document: dict[str, Any],
    check: Callable[[], None],
) -> Generation:
    """Copy a manifest's files into the output beside those that are current, and commit it.

    Raises:
        Superseded, CommitUnknown: see ``commit``.
        FileNotFoundError: a part under state is gone.

    """
    previous = current.number if current else 0
    parts = [Part(**part) for part in document["parts"]]
    rejected = [Part(**part) for part in document["rejected"]]
    for part in (*parts, *rejected):
        check_source(roots.state, part)  # before the first copy, so that a glob sees less of it
    announce_copies(roots.state, partition, previous + 1, parts, rejected)
    for store, items in ((roots.output, parts), (roots.rejected, rejected)):
        for part in items:
            place(roots.state, store, part)
    check()
    generation = commit(roots.state, partition, previous, document)
    check()
    if current is not None:
        _remove_superseded(roots, current, generation)
    mend(roots, generation)  # an owner that was taken over may have removed a copy as superseded
    tidy(roots, partition, keep)
    return generation


def _remove_superseded(roots: Roots, before: Generation, now: Generation) -> None:
    """Remove at once what only the generation before names: a glob counts it twice till then."""
    for store, old, new in (
        (roots.output, before.parts, now.parts),
        (roots.rejected, before.rejected, now.rejected),
    ):
        for name in sorted({part.name for part in old} - {part.name for part in new}):
            store.delete(name)


def _place(folder: str, part: Part, shard: int) -> Part:
    """Return a part under state as it will be published."""
    file = f"part-{shard:05d}-{part.sha256[:8]}.parquet"
    name = f"{folder}/{file}" if folder else file
    return Part(name, part.sha256, part.size, part.rows, source=part.name)


def _sign() -> dict[str, Any]:
    return {
        "version": contract_versions()["manifest"],
        "written_by": f"rerank-jobs {__version__}",
        "write_id": uuid4().hex,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _compose(
    job: Job, roots: Roots, order: PublishOrder, current: Generation | None
) -> dict[str, Any]:
    """Return the manifest of an order that passes its guards."""
    parts = [_place(order.folder, shard.part, shard.shard) for shard in order.shards if shard.part]
    rejected = [_place(order.folder, order.rejected, 0)] if order.rejected else []
    document: dict[str, Any] = {
        "contract": "manifest",
        **_sign(),
        "partition": order.partition,
        "plan_id": order.plan_id,
        "contracts": contract_versions(),
        "parts": [asdict(part) for part in parts],
        "rejected": [asdict(part) for part in rejected],
        "statuses": add_statuses(order.shards),
        **order.facts,
    }
    again = current is not None and current.plan_id == order.plan_id
    if current is not None and again and current.withdrawn:
        document["withdrawn"] = list(current.withdrawn)
    figures = check_guards(job, roots, order, None if again else current)
    return document if figures is None else {**document, "ranking": figures}
