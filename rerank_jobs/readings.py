"""Readings of the canary in the state root: one immutable, numbered record a night and scorer.

A record names its time, scorer, pairs and cost beside the reading, and no text. Of a reading that
was stopped it keeps the cost alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rerank_jobs.drift import Reading
from rerank_jobs.errors import StateError
from rerank_jobs.storage import Put, Store, read_json, seal_json
from rerank_jobs.storage.store import iterate_numbered

__all__ = ["Earlier", "Kept", "keep_reading"]


@dataclass(frozen=True, slots=True)
class Earlier:
    """A reading of an earlier night, and the number of the reference that it was compared with."""

    number: int
    reading: Reading
    reference: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a reading is kept; the one before it and the reference, ``None`` if it is the first."""

    number: int
    name: str
    last: Earlier | None
    reference: Earlier | None


def keep_reading(
    state: Store,
    folder: str,
    reading: Reading | None,
    pairs: str,
    spent: Mapping[str, Any],
    *,
    accept: bool,
) -> Kept:
    """Write the record of a reading under the next free number, and find those before it.

    ``pairs`` names what was scored: readings of other pairs are not found. The reference is the
    first reading, or the latest one that was written with ``accept``. Where its record is damaged,
    the last reading stands for it. ``spent`` is as in the record of a run, for the budgets.
    """
    now = time.time()
    while True:
        known = list(iterate_numbered(state, folder, ".json"))
        number = known[-1][0] + 1 if known else 1
        last = _find_last(state, known, pairs)
        reference = None if last is None else _find_reference(state, folder, pairs, last)
        document = {
            "at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            "ended_at": now,
            "pairs": pairs,
            "reading": None if reading is None else asdict(reading),
            "reference": number if accept or reference is None else reference.number,
            **spent,
        }
        name = _record(folder, number)
        if state.put_if_absent(name, seal_json(document)) is not Put.OTHER:
            return Kept(number, name, last, reference)


def _find_last(state: Store, known: list[tuple[int, str]], pairs: str) -> Earlier | None:
    found = (_read(state, number, name, pairs) for number, name in reversed(known))
    return next((one for one in found if one is not None), None)


def _find_reference(state: Store, folder: str, pairs: str, last: Earlier) -> Earlier:
    if last.reference == last.number:
        return last
    return _read(state, last.reference, _record(folder, last.reference), pairs) or last


def _read(state: Store, number: int, name: str, pairs: str) -> Earlier | None:
    """Return a record's reading; ``None`` of other pairs, of a stop, and of a damaged record."""
    try:
        record = read_json(state, name)
    except (StateError, FileNotFoundError):
        return None
    read = record["reading"]
    if record["pairs"] != pairs or read is None:
        return None
    reading = Reading(tuple(read["models"]), tuple(read["providers"]), tuple(read["scores"]))
    return Earlier(number, reading, int(record["reference"]))


def _record(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.json"
