"""What nothing can reach any more: a pure rule from listings and documents to names and reasons.

Reachable, and never named here: ``FORMAT``, the salt, manifests of generations; what the current
generation and the retained ones were published from; a plan that may be resumed, with all of its
run; whatever a live claim stands on; the newest manifest of a library and its files; segments that
are not in the library, or that a budget of the day or month still counts; what is younger than the
grace. A file whose name is not known is never named either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rerank_jobs.ledger.spending import CLOCK_SLACK_SECONDS
from rerank_jobs.publish.generations import Generation
from rerank_jobs.publish.retention import name_sources
from rerank_jobs.storage import Entry

__all__ = [
    "OLD_CLAIMS",
    "Garbage",
    "LibraryFacts",
    "Limits",
    "PartitionFacts",
    "PlanFacts",
    "find_library_garbage",
    "find_partition_garbage",
]

OLD_CLAIMS = "old claims"

_HOLDING = re.compile(r"(?:\d{5}/)?(?:work\..+|part-.+|rejected-.+|done\.json)")
"""Files of a run that hold text, or that only an unfinished plan needs."""

_LEDGER = (
    re.compile(r"\d{5}/seg/.+\.arrow"),
    re.compile(r"\d{5}/run-\d+\.json"),
    re.compile(r"\d{5}/claim/\d+\.(?:json|beat)"),
    re.compile(r"compacted/\d+\.json"),
)
"""What a retired run is remembered by, in the order in which it may go: whoever comes after a crash
still finds the segments' markers."""

_EPOCH = re.compile(r".+/publish/claim/(\d+)\.(?:json|beat)")


@dataclass(frozen=True, slots=True)
class Garbage:
    """One file to remove: its root (state, output, rejected or scratch), kind and the reason why.

    ``plan_id`` is set for files of a run.
    """

    root: str
    name: str
    size: int
    kind: str
    reason: str
    plan_id: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How old, in seconds, what goes must be; ``keep_generations`` as the job says."""

    now: float
    grace: float
    keep: float
    keep_generations: int

    @property
    def latest(self) -> float:
        """The latest instant at which a file may have been written that goes."""
        return self.now - self.grace

    @property
    def latest_ledger(self) -> float:
        """The same for segments: budgets count those of the current UTC day and month."""
        today = datetime.fromtimestamp(self.now, UTC)
        month = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
        return min(self.now - self.keep, self.latest, month - CLOCK_SLACK_SECONDS)


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """A frozen plan: when, of which scorer, and whether all of its shards are done.

    ``whole`` and ``sample``: of the whole table, or of some queries; plans of earlier versions do
    not say. ``resumable``: every shard that is not done has its work files. A plan file that cannot
    be read is ``None`` instead, and keeps its run.
    """

    created_at: datetime
    scorer_id: str
    whole: bool
    sample: bool
    done: bool
    resumable: bool


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """What was read of a partition.

    ``published``: the current generation's files are there, or can be put back. ``compacted``:
    segments by run that stand in a whole library. ``held``: runs with a live claim. ``leftovers``:
    (root, entry) that publishing itself would remove.
    """

    partition: str
    entries: Sequence[Entry]
    plans: Mapping[str, PlanFacts | None]
    generations: Sequence[Generation]
    published: bool
    compacted: Mapping[str, frozenset[str]]
    held: frozenset[str]
    leftovers: Sequence[tuple[str, Entry]]


@dataclass(frozen=True, slots=True)
class LibraryFacts:
    """A scorer's library: all files of its folder, and what its manifests reach.

    ``reached`` are the manifests that were the newest at any time within the grace, and the files
    that they name: who read one of these may still be at work.
    """

    entries: Sequence[Entry]
    reached: frozenset[str]


def find_partition_garbage(facts: PartitionFacts, limits: Limits) -> list[Garbage]:
    """Return what of a partition can go, each name once, in the order in which it may go."""
    found: dict[tuple[str, str], Garbage] = {}
    kept = name_sources(facts.generations[-(limits.keep_generations + 1) :])
    runs = _group_runs(facts)
    for identity in sorted({*runs, *facts.plans} - facts.held):
        for item in _find_in_run(facts, identity, runs.get(identity, []), kept, limits):
            found.setdefault((item.root, item.name), item)
    for item in _find_claims(facts, limits):
        found.setdefault((item.root, item.name), item)
    for root, entry in facts.leftovers:
        alive = _run_of(facts.partition, entry.name) in facts.held and root == "state"
        if entry.modified <= limits.latest and not alive and entry.name not in kept:
            reason = "an earlier generation's or an unfinished publishing's; none retained names it"
            item = Garbage(root, entry.name, entry.size, "superseded files", reason)
            found.setdefault((root, entry.name), item)
    return list(found.values())


def find_library_garbage(facts: LibraryFacts, limits: Limits) -> list[Garbage]:
    """Return files and manifests of a library that nobody reaches since the grace began."""
    return [
        Garbage("state", entry.name, entry.size, "library", "the newest manifest does not reach it")
        for entry in facts.entries
        if entry.modified <= limits.latest
        and entry.name not in facts.reached
        and re.fullmatch(r"library/[^/]+/(scores-.+\.parquet|manifest/\d+\.json)", entry.name)
    ]


def _group_runs(facts: PartitionFacts) -> dict[str, list[Entry]]:
    runs: dict[str, list[Entry]] = {}
    for entry in facts.entries:
        if identity := _run_of(facts.partition, entry.name):
            runs.setdefault(identity, []).append(entry)
    return runs


def _run_of(partition: str, name: str) -> str | None:
    prefix = f"{partition}/run/"
    identity, _, rest = name.removeprefix(prefix).partition("/")
    return identity if name.startswith(prefix) and rest else None


def _find_in_run(
    facts: PartitionFacts, identity: str, entries: list[Entry], kept: set[str], limits: Limits
) -> Iterator[Garbage]:
    plan_name = f"{facts.partition}/plan/{identity}.json"
    own = [entry for entry in facts.entries if entry.name == plan_name]
    if any(entry.modified > limits.latest for entry in [*own, *entries]):
        return
    kind, reason = "orphaned files", "no plan and no retained generation names it"
    if identity in facts.plans:
        told = _explain_plan(facts, identity)
        if told is None:
            return
        kind, reason = told
        for entry in own:
            yield Garbage("state", entry.name, entry.size, kind, reason, identity)
    run = f"{facts.partition}/run/{identity}/"
    manifests = sum("/manifest/" in entry.name for entry in facts.entries)
    # What a damaged manifest names nobody knows: it may be mended, and its parts are kept for that.
    parts = ("part-", "rejected-") if manifests == len(facts.generations) else ()
    for start in ("done.json", *parts, "work."):
        for entry in entries:
            rest = entry.name.removeprefix(run)
            mine = _HOLDING.fullmatch(rest) and rest.rpartition("/")[2].startswith(start)
            if mine and entry.name not in kept:
                yield Garbage("state", entry.name, entry.size, kind, reason, identity)
    if identity not in facts.plans:
        yield from _find_in_ledger(facts, identity, entries, limits)


def _explain_plan(facts: PartitionFacts, identity: str) -> tuple[str, str] | None:
    """Return the kind and the reason why a frozen plan may go; ``None`` if it may be resumed."""
    plan = facts.plans[identity]
    if plan is None:
        return None
    current = facts.generations[-1] if facts.generations else None
    if current is not None and identity in (current.plan_id, *current.withdrawn):
        settled = "published plans", "its plan is published or withdrawn: a crash left it"
        return settled if facts.published else None
    if not plan.resumable:
        return "broken plans", "a work file of its plan is gone: it cannot be resumed"
    if plan.done and plan.sample:
        return "samples", "a sample's result; its scores go into the library first"
    later = any(
        other is not None and other.whole and other.created_at > plan.created_at
        for name, other in facts.plans.items()
        if name != identity
    ) or any(
        datetime.fromisoformat(one.document["created_at"]) > plan.created_at
        for one in facts.generations
        if one.plan_id != identity
    )
    if later:
        return "superseded plans", "a later plan was made; its scores go into the library first"
    return None


def _find_in_ledger(
    facts: PartitionFacts, identity: str, entries: list[Entry], limits: Limits
) -> Iterator[Garbage]:
    """Yield segments, records, claims and markers of a retired run, all of them or none."""
    if any(entry.modified > limits.latest_ledger for entry in entries):
        return
    compacted = facts.compacted.get(identity, frozenset())
    segments = [entry.name for entry in entries if _LEDGER[0].search(entry.name)]
    if not set(segments) <= compacted:
        return
    run = f"{facts.partition}/run/{identity}/"
    for pattern in _LEDGER:
        for entry in entries:
            if pattern.fullmatch(entry.name.removeprefix(run)):
                reason = "its scores stand in the library, and no budget counts it any more"
                yield Garbage("state", entry.name, entry.size, "old ledgers", reason, identity)


def _find_claims(facts: PartitionFacts, limits: Limits) -> Iterator[Garbage]:
    """Yield claims of publishing but the newest, which says who may take over."""
    epochs = [(int(match[1]), entry) for entry, match in _match(facts.entries, _EPOCH.fullmatch)]
    newest = max((epoch for epoch, _ in epochs), default=0)
    for epoch, entry in epochs:
        if epoch < newest and entry.modified <= limits.latest:
            yield Garbage("state", entry.name, entry.size, OLD_CLAIMS, "a newer claim stands")


def _match(
    entries: Sequence[Entry], match: Callable[[str], re.Match[str] | None]
) -> Iterator[tuple[Entry, re.Match[str]]]:
    for entry in entries:
        if found := match(entry.name):
            yield entry, found
