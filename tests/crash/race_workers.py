"""Processes of ``test_four_runners``: runners that start together, a reader that never rests."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from queue import Queue

from rerank_jobs import Snapshot, read_current
from rerank_jobs.errors import Busy, RerankJobsError, SnapshotGone, StateError
from rerank_jobs.job import run_partition
from rerank_jobs.job_file import load_job

MARKER = "marker"
BUSY_TRIES = 400
READ_PAUSE = 0.002  # between manifest and files, where a newer generation does harm if it can
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What one runner did in one round."""

    generation: int
    requests: int
    busy: int
    errors: tuple[str, ...]


@dataclass(slots=True)
class Seen:
    """What the reader saw: whole snapshots, those replaced under it, and what was wrong."""

    reads: int = 0
    replaced: int = 0
    hashed: int = 0
    generations: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def run_rounds(job_file: Path, rounds: int, barrier: Barrier, results: Queue[Ran]) -> None:
    """Run the job once a round, all runners at the same moment."""
    job = load_job(job_file)
    for _ in range(rounds):
        barrier.wait(PATIENCE)
        busy, errors = 0, []
        while True:
            try:
                result = run_partition(job)
            except Busy:
                busy += 1
                if busy < BUSY_TRIES:
                    time.sleep(random.uniform(0.05, 0.25))
                    continue
                errors.append("busy to the end")
            except RerankJobsError as error:
                errors.append(f"{type(error).__name__}: {error}")
            else:
                assert result.generation is not None
                number, sent = result.generation.number, result.totals.requests
                results.put(Ran(number, sent, busy, tuple(errors)))
                break
            if len(errors) > 3:
                results.put(Ran(0, 0, busy, tuple(errors)))
                break
        barrier.wait(PATIENCE)


def read_on(job_file: Path, rows: int, least: int, stop: Event, results: Queue[Seen]) -> None:
    """Read the current table until told to stop, ``least`` times at least; check every snapshot."""
    job, seen, newest = load_job(job_file), Seen(), 0
    end = time.monotonic() + 4 * PATIENCE
    while not (stop.is_set() and seen.reads >= least) and time.monotonic() < end:
        try:
            snapshot = read_current(job)
            time.sleep(READ_PAUSE)
            table = snapshot.to_table()
        except SnapshotGone:
            seen.replaced += 1
            continue
        except StateError as error:
            if "nothing is published" not in str(error) or newest:
                seen.wrong.append(str(error))
            continue
        seen.reads += 1
        seen.generations.add(snapshot.generation)
        markers = set(table.column(MARKER).to_pylist())
        if markers != {snapshot.generation}:
            seen.wrong.append(f"generation {snapshot.generation} holds markers {markers}")
        if not table.num_rows == snapshot.rows == rows:
            seen.wrong.append(f"{table.num_rows} rows in generation {snapshot.generation}")
        if snapshot.generation < newest:
            seen.wrong.append(f"generation {snapshot.generation} after {newest}")
        newest = max(newest, snapshot.generation)
        if seen.reads % 20 == 0:
            check_digests(snapshot, seen)
    results.put(seen)


def check_digests(snapshot: Snapshot, seen: Seen) -> None:
    """Compare each file's SHA-256 with the manifest's, where the file is still there."""
    for part, path in zip(snapshot.manifest["parts"], snapshot.paths, strict=True):
        try:
            data = Path(path).read_bytes()
        except FileNotFoundError:
            continue
        seen.hashed += 1
        if hashlib.sha256(data).hexdigest() != part["sha256"]:
            seen.wrong.append(f"{path}: other bytes than the manifest says")
