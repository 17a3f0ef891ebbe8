"""Spending: what a whole state root has paid since an instant, and what its live runs may yet pay.

It is counted from the ledger: sealed segments of every partition and plan, also of those that are
published and retired, and what run records say of sends of unknown fate, as those of a canary do of
all of its cost. Scores that came into the
library by another way cost nothing here. What a killed process had in flight left no record.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from rerank_jobs.errors import StateError
from rerank_jobs.ledger.claims import SILENCE_SECONDS, read_reserved
from rerank_jobs.ledger.segments import decode_segment
from rerank_jobs.storage import Entry, Store, read_json

__all__ = ["Spending", "count_spending", "read_unsealed", "sum_payments"]

CLOCK_SLACK_SECONDS = 3600.0
"""How far the clock that dates files may be from the one that dates replies."""

_SHARD_FILE = re.compile(
    r"(.+/run/[^/]+/[^/]+(?=/(?:seg/.+\.arrow|claim/.+|run-\d+\.json)$)|canary/[0-9a-f]{32}(?=/\d+\.json$))"
    r"/.+"
)

_Floats: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"


@dataclass(frozen=True, slots=True)
class Spending:
    """Dollars: ``paid_usd[i]`` since the i-th instant asked for; ``reserved_usd`` may follow."""

    paid_usd: tuple[float, ...]
    reserved_usd: float


def read_unsealed(record: Mapping[str, Any]) -> float:
    """Return the dollars of a run record that no segment holds.

    They are of unknown fate, paid for replies of no use, or for replies that a disk did not take.
    """
    totals = record["totals"]
    wasted = float(totals.get("wasted_usd", 0.0))
    return float(totals["unknown_usd"]) + wasted + float(record.get("unsealed_usd", 0.0))


def count_spending(store: Store, since: Sequence[float], now: float, *, ours: str) -> Spending:
    """Count what the state root paid since each of some instants, and what it has reserved.

    Never less than what is sealed and known, whatever other processes do meanwhile. A segment's
    rows are not newer than its file, so files from before the first instant are not read.
    ``ours`` is the folder of a shard or a run: what is reserved there is left out, because whoever
    asks knows it better. Instants are in seconds since the epoch.
    """
    oldest = min(since) - CLOCK_SLACK_SECONDS
    paid, reserved = [0.0] * len(since), 0.0
    for folder, listed in _group(store.entries()).items():
        entries, limit = listed, 0.0
        if _was_alive(entries, now):
            # First its sign of life, then its money: what it pays in between is counted twice at
            # worst. The other way round a shard that ends in between would not be counted at all.
            limit = read_reserved(store, folder, now)
            entries = _list_payments(store, folder)
        if f"{folder}/".startswith(f"{ours}/"):
            limit = 0.0
        read = [entry for entry in entries if limit or entry.modified >= oldest]
        instants, dollars = _read_payments(store, read)
        for index, start in enumerate(since):
            paid[index] += float(dollars[instants >= start].sum())
        reserved += max(0.0, limit - float(dollars.sum()))
    return Spending(tuple(paid), reserved)


def sum_payments(store: Store, folder: str, since: float = 0.0) -> float:
    """Return what was paid under ``folder`` (a shard, a run or a partition's runs), in dollars.

    ``since`` (seconds since the epoch) leaves out what was paid before.
    """
    instants, dollars = _read_payments(store, _list_payments(store, folder))
    return float(dollars[instants >= since].sum())


def _list_payments(store: Store, folder: str) -> list[Entry]:
    return [entry for entry in store.entries(folder) if _SHARD_FILE.fullmatch(entry.name)]


def _group(entries: list[Entry]) -> dict[str, list[Entry]]:
    """Sort the files that spending is counted from by their shard's folder."""
    shards: dict[str, list[Entry]] = {}
    for entry in entries:
        if match := _SHARD_FILE.fullmatch(entry.name):
            shards.setdefault(match[1], []).append(entry)
    return shards


def _was_alive(entries: list[Entry], now: float) -> bool:
    """Say whether the shard has a claim, or a beat, that is not surely older than the silence."""
    earliest = now - SILENCE_SECONDS - CLOCK_SLACK_SECONDS
    return any("/claim/" in entry.name and entry.modified >= earliest for entry in entries)


def _read_payments(store: Store, entries: list[Entry]) -> tuple[_Floats, _Floats]:
    """Return instants (seconds since the epoch) and dollars of all payments in some files."""
    instants, dollars = [np.zeros(0)], [np.zeros(0)]
    for entry in entries:
        if entry.name.endswith(".arrow"):
            with contextlib.suppress(ValueError):  # torn: nobody can tell what it held
                rows = decode_segment(store.read(entry.name), ("received_at", "cost_usd"))
                microseconds = rows.column("received_at").cast(pa.int64()).to_numpy()
                instants.append(microseconds / 1e6)
                dollars.append(rows.column("cost_usd").to_numpy())
        elif "/claim/" not in entry.name:
            with contextlib.suppress(StateError):
                record = read_json(store, entry.name)
                # Nobody knows when in the run: the latest instant keeps the most of it in sight.
                instants.append(np.array([record.get("ended_at", entry.modified)]))
                dollars.append(np.array([read_unsealed(record)]))
    return np.concatenate(instants), np.concatenate(dollars)
