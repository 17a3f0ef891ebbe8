"""Looking after what is paid: all of a ledger counted, and all of it compacted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.ledger.compaction import compact, merge_all, read_markers
from rerank_jobs.ledger.library import fetch_library, list_scorers, read_library
from rerank_jobs.ledger.segments import decode_segment
from rerank_jobs.runs import IMPORTS, Run, list_runs
from rerank_jobs.storage import Store
from rerank_jobs.upkeep import prepare_state

__all__ = ["Compacted", "LedgerStats", "ScorerStats", "compact_everything", "count_ledger"]

UNKNOWN = "unknown"
"""Stands for the scorer of runs of which nothing says it any more."""


@dataclass(slots=True)
class ScorerStats:
    """One scorer: its library, and what its segments say.

    ``pairs`` are rows of the library: a pair that lies in several files counts in each until they
    are merged. ``paid_usd`` is by month of the reply (UTC); ``imported`` pairs cost nothing here.
    ``uncompacted`` segments do not stand in the library yet.
    """

    pairs: int = 0
    files: int = 0
    bytes: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    segments: int = 0
    uncompacted: int = 0
    requests: int = 0
    imported: int = 0
    paid_usd: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """A whole state root by scorer; ``ignored`` are names of torn, changed or foreign segments."""

    scorers: dict[str, ScorerStats]
    ignored: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {
            "scorers": {name: asdict(stats) for name, stats in self.scorers.items()},
            "segments_ignored": list(self.ignored),
        }


@dataclass(frozen=True, slots=True)
class Compacted:
    """What compacting everything did: pairs added and files left by scorer, and runs left out.

    ``unknown`` are folders of runs of which nothing says whose scores they hold.
    """

    added: dict[str, int]
    files: dict[str, int]
    unknown: tuple[str, ...]


def count_ledger(store: Store) -> LedgerStats:
    """Count libraries and segments of a state root; one segment at a time is in memory.

    Raises:
        StateError: a library's manifest, or a file that it names, is damaged.

    """
    scorers: dict[str, ScorerStats] = {}
    for scorer in list_scorers(store):
        scorers[scorer] = _count_library(store, scorer)
    ignored: list[str] = []
    for run in list_runs(store):
        stats = scorers.setdefault(run.scorer_id or UNKNOWN, ScorerStats())
        ignored += _count_run(store, run, stats)
    return LedgerStats(dict(sorted(scorers.items())), tuple(ignored))


def _count_library(store: Store, scorer: str) -> ScorerStats:
    library = read_library(store, scorer)
    stats = ScorerStats(files=len(library.files))
    for file, path in zip(library.files, fetch_library(store, library), strict=True):
        stats.pairs += file.rows
        stats.bytes += file.size
        metadata = pq.read_metadata(path)
        index = metadata.schema.names.index("received_at")
        for group in range(metadata.num_row_groups):
            bounds: Any = metadata.row_group(group).column(index).statistics
            stats.oldest = min(filter(None, (stats.oldest, bounds.min)))
            stats.newest = max(filter(None, (stats.newest, bounds.max)))
    return stats


def _count_run(store: Store, run: Run, stats: ScorerStats) -> list[str]:
    """Add a run's segments to its scorer's figures; return those that cannot be used."""
    library = read_library(store, run.scorer_id) if run.scorer_id else None
    known = {
        name
        for marker in read_markers(store, run.folder)
        if library and (marker.scorer_id, marker.identity) == (run.scorer_id, library.identity)
        for name in marker.segments
    } | (library.old_segments if library else set())
    ignored = []
    for name in run.segments:
        stats.segments += 1
        rows = _read_segment(store, name, run.plan_id)
        if rows is None:
            ignored.append(name)
            continue
        stats.uncompacted += name not in known
        if run.partition == IMPORTS:
            stats.imported += rows.num_rows
            continue
        paid = rows.filter(pc.is_null(rows.column("error")))
        stats.requests += paid.num_rows
        months: list[Any] = pc.strftime(paid.column("received_at"), format="%Y-%m").to_pylist()
        dollars: list[Any] = paid.column("cost_usd").to_pylist()
        for month, usd in zip(months, dollars, strict=True):
            stats.paid_usd[month] = stats.paid_usd.get(month, 0.0) + usd
    stats.paid_usd = {month: round(usd, 6) for month, usd in sorted(stats.paid_usd.items())}
    return ignored


def _read_segment(store: Store, name: str, plan_id: str) -> pa.Table | None:
    try:
        rows = decode_segment(store.read(name), ("received_at", "cost_usd", "error", "plan_id"))
    except ValueError:
        return None
    return rows if pc.unique(rows.column("plan_id")).to_pylist() == [plan_id] else None


def compact_everything(store: Store, observe: Callable[[str], None] = lambda _: None) -> Compacted:
    """Bring all sealed scores of a state root into their libraries, and merge each to one file.

    Segments that were ignored are tried again: they may have been restored. ``observe`` is told
    the folder of each run.

    Raises:
        StateError: a library's manifest, or a file that it names, is damaged, or the state root has
            another format.

    """
    if store.exists("FORMAT"):
        prepare_state(store)
    added: dict[str, int] = {}
    unknown = []
    for run in list_runs(store):
        observe(run.folder)
        if run.scorer_id is None:
            unknown.append(run.folder)
            continue
        count = compact(store, run.scorer_id, run.folder, run.plan_id, again=True)
        added[run.scorer_id] = added.get(run.scorer_id, 0) + count
    files = {scorer: len(merge_all(store, scorer).files) for scorer in list_scorers(store)}
    return Compacted(added, files, tuple(unknown))
