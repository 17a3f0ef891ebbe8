"""Survey: what garbage collection and erasure need to know of a state root, only read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime

from rerank_jobs.errors import StateError
from rerank_jobs.garbage import LibraryFacts, Limits, PartitionFacts, PlanFacts
from rerank_jobs.ledger.claims import is_held
from rerank_jobs.ledger.compaction import read_markers
from rerank_jobs.ledger.library import Library, read_library
from rerank_jobs.plan.frozen import Plan, read_plan, run_folder
from rerank_jobs.publish.generations import read_generations
from rerank_jobs.publish.leftovers import find_leftovers
from rerank_jobs.publish.publisher import Roots, find_published
from rerank_jobs.storage import Entry, Store, read_json
from rerank_jobs.storage.store import iterate_numbered

__all__ = ["list_partitions", "name_roots", "read_library_facts", "read_partition"]

_PARTS_OF_PARTITION = {"plan", "run", "manifest", "publish"}


def list_partitions(state: Store) -> list[str]:
    """Return all partitions that a state root knows."""
    names = (entry.name.split("/") for entry in state.entries())
    return sorted({n[0] for n in names if len(n) > 2 and n[1] in _PARTS_OF_PARTITION})


def read_partition(roots: Roots, partition: str, limits: Limits) -> PartitionFacts:
    """Read what the rule needs to know of a partition; nothing is changed."""
    state = roots.state
    entries = state.entries(partition)
    generations = read_generations(state, partition)
    current = generations[-1] if generations else None
    published = current is not None and find_published(roots, partition, current.plan_id)
    sizes = {entry.name: entry for entry in entries}
    plans = {
        name.rpartition("/")[2].removesuffix(".json"): _read_plan_facts(state, name, sizes)
        for name in sizes
        if name.startswith(f"{partition}/plan/") and name.endswith(".json")
    }
    leftovers = find_leftovers(roots, partition, limits.keep_generations, now=limits.now)
    return PartitionFacts(
        partition=partition,
        entries=entries,
        plans=plans,
        generations=generations,
        published=bool(published),
        compacted=_read_compacted(state, partition, entries),
        held=frozenset(_find_held(state, entries, limits.now)),
        leftovers=list(_describe_leftovers(roots, leftovers)),
    )


def _read_plan_facts(state: Store, name: str, listed: dict[str, Entry]) -> PlanFacts | None:
    try:
        document = read_json(state, name)
        plan = read_plan(state, document["partition"], document["plan_id"])
    except (StateError, FileNotFoundError, KeyError, TypeError):
        return None
    done = [_is_done(state, plan, shard.number, listed) for shard in plan.shards]
    working = [all(file.name in listed for file in shard.files.values()) for shard in plan.shards]
    return PlanFacts(
        created_at=datetime.fromisoformat(plan.created_at),
        scorer_id=plan.scorer_id,
        whole=plan.whole,
        sample=document.get("sample") is not None,
        done=all(done),
        resumable=all(one or other for one, other in zip(done, working, strict=True)),
    )


def _is_done(state: Store, plan: Plan, shard: int, listed: dict[str, Entry]) -> bool:
    name = f"{run_folder(plan.partition, plan.plan_id, shard)}/done.json"
    if name not in listed:
        return False
    try:
        part = read_json(state, name)["part"]
    except (StateError, FileNotFoundError):
        return False
    return part is None or (part["name"] in listed and listed[part["name"]].size == part["size"])


def _read_compacted(
    state: Store, partition: str, entries: Sequence[Entry]
) -> dict[str, frozenset[str]]:
    """Return the segments of each run that stand in a library all of whose files are there."""
    libraries: dict[str, Library | None] = {}
    found: dict[str, frozenset[str]] = {}
    for run in {"/".join(e.name.split("/")[:3]) for e in entries if "/compacted/" in e.name}:
        segments: set[str] = set()
        for marker in read_markers(state, run):
            if marker.scorer_id not in libraries:
                libraries[marker.scorer_id] = _read_whole_library(state, marker.scorer_id)
            library = libraries[marker.scorer_id]
            if library is not None and library.identity == marker.identity:
                segments.update(marker.segments, marker.ignored)
        found[run.removeprefix(f"{partition}/run/")] = frozenset(segments)
    return found


def _read_whole_library(state: Store, scorer: str) -> Library | None:
    try:
        library = read_library(state, scorer)
    except StateError:
        return None
    sizes = {entry.name: entry.size for entry in state.entries(f"library/{scorer}")}
    return library if all(sizes.get(f.name) == f.size for f in library.files) else None


def _find_held(state: Store, entries: Sequence[Entry], now: float) -> Iterator[str]:
    """Yield the runs of which a shard has a live owner."""
    for folder in {e.name.rpartition("/claim/")[0] for e in entries if "/claim/" in e.name}:
        parts = folder.split("/")
        if parts[1] == "run" and is_held(state, folder, now):
            yield parts[2]


def _describe_leftovers(
    roots: Roots, leftovers: Sequence[tuple[Store, str]]
) -> Iterator[tuple[str, Entry]]:
    for root, store in name_roots(roots):
        names = {name for where, name in leftovers if where is store}
        folders = {name.rpartition("/")[0] for name in names}
        for entry in itertools.chain.from_iterable(map(store.entries, sorted(folders))):
            if entry.name in names:
                names.discard(entry.name)
                yield root, entry


def name_roots(roots: Roots) -> tuple[tuple[str, Store], ...]:
    """Return the roots of a job with what they are called."""
    return (("output", roots.output), ("rejected", roots.rejected), ("state", roots.state))


def read_library_facts(state: Store, scorer: str, limits: Limits) -> LibraryFacts:
    """Read what the rule needs to know of a scorer's library."""
    entries = state.entries(f"library/{scorer}")
    dates = {entry.name: entry.modified for entry in entries}
    manifests = list(iterate_numbered(state, f"library/{scorer}/manifest", ".json"))
    reached: set[str] = set()
    for _, name in reversed(manifests):
        reached.add(name)
        try:
            reached.update(item["name"] for item in read_json(state, name)["files"])
        except (StateError, FileNotFoundError, KeyError, TypeError):
            return LibraryFacts((), frozenset())  # nothing goes while nobody can tell
        if dates.get(name, limits.now) <= limits.latest:
            break  # the grace began under this one
    return LibraryFacts(entries, frozenset(reached))
