"""Reports of published generations, gathered from state when asked for: nothing more is kept."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.config import Job, check_partition_key
from rerank_jobs.errors import StateError
from rerank_jobs.model import ScoreTotals, Tally
from rerank_jobs.planning import open_roots
from rerank_jobs.publish.generations import Generation, read_current, read_generations
from rerank_jobs.publish.publisher import Roots
from rerank_jobs.report.moves import Moves, count_moves
from rerank_jobs.report.run_figures import RunFigures, Sending
from rerank_jobs.score import read_percentile
from rerank_jobs.storage import Store, read_json

__all__ = ["find_generation", "gather_figures"]

MOST_DOCUMENTS = 2_000_000
"""Documents whose moves are counted: less than a second for a page."""

MOST_FETCHED_BYTES = 256_000_000
"""Of files in object storage, which are fetched whole."""

MOST_RECORDS = 1_000
"""Records of processes that are read: four of each of 256 shards."""

_RECORD = re.compile(r".*/run-\d+\.json")
_PERCENTILES = (50, 95, 99)


def find_generation(job: Job, partition: str, number: int | None = None) -> Generation:
    """Return a generation of a partition by its number, without one the current.

    Raises:
        JobError: the partition's key is wrong.
        StateError: there is none, or the current manifest is damaged.

    """
    check_partition_key(partition)
    state = open_roots(job).state
    if number is None:
        found = read_current(state, partition)
    else:
        numbered = [one for one in read_generations(state, partition) if one.number == number]
        found = numbered[0] if numbered else None
    if found is None and number is None:
        raise StateError(
            f"{state.location}: nothing of partition {partition} is published yet: rerank-jobs run"
            " does it"
        )
    if found is None:
        raise StateError(
            f"{state.location}: partition {partition} has no generation {number}: rerank-jobs paths"
            " --generations lists those that it has"
        )
    return found


def gather_figures(job: Job, partition: str, number: int | None = None) -> RunFigures:
    """Return the figures of a generation: manifest, records of processes, counts of moves.

    Of published files only ranks are read, and of at most ``MOST_DOCUMENTS`` documents.

    Raises:
        JobError, StateError: see ``find_generation``.

    """
    generation = find_generation(job, partition, number)
    roots = open_roots(job)
    current = read_current(roots.state, partition)
    return RunFigures(
        manifest=generation.document,
        current=generation.number if current is None else current.number,
        output=roots.output.location,
        rejected=roots.rejected.location,
        sending=_read_sending(roots.state, partition, generation.plan_id),
        moves=_read_moves(roots, generation, is_current=generation == current),
    )


def _read_sending(state: Store, partition: str, plan_id: str) -> Sending | None:
    """Add up what the processes of a plan recorded, of those that sent something."""
    names = [entry.name for entry in state.entries(f"{partition}/run/{plan_id}")]
    total, spans = ScoreTotals(), []
    for name in [name for name in names if _RECORD.fullmatch(name)][:MOST_RECORDS]:
        with contextlib.suppress(StateError, FileNotFoundError):  # torn, or collected as garbage
            record = read_json(state, name)
            totals = _read_totals(record["totals"])
            if totals.requests:
                total = total.plus(totals)
                ended = float(record["ended_at"])
                spans.append((ended - totals.seconds, ended))
    if not spans:
        return None
    latencies = {
        f"p{percent}": seconds
        for percent in _PERCENTILES
        if (seconds := read_percentile(total.latencies, percent / 100)) is not None
    }
    begun, ended = min(start for start, _ in spans), max(end for _, end in spans)
    return Sending(total, len(spans), begun, ended, latencies)


def _read_totals(recorded: dict[str, Any]) -> ScoreTotals:
    """Return totals as a record has them; those of earlier versions lack fields."""
    known = {name: recorded[name] for name in ScoreTotals.__dataclass_fields__ if name in recorded}
    tallies = {
        name: Tally(tuple((key, count) for key, count in value["counts"]))
        for name, value in known.items()
        if isinstance(value, dict)
    }
    return ScoreTotals(**{**known, **tallies})


def _read_moves(roots: Roots, generation: Generation, *, is_current: bool) -> Moves | None:
    """Count moves in a generation's files: published, or kept under state if it is superseded."""
    store = roots.output if is_current else roots.state
    names = [part.name if is_current else part.source for part in generation.parts]
    remote = "://" in store.location
    paths, fetched = [], 0
    try:
        for name, part in zip(names, generation.parts, strict=True):
            fetched += part.size
            if name is None:
                return None
            if not (remote and fetched > MOST_FETCHED_BYTES):
                paths.append(store.fetch(name))
        columns = generation.document["policy"]["columns"]
        documents = sum(generation.document["statuses"].values())
        return count_moves(_read_deltas(paths, columns.get("candidates")), documents)
    except (OSError, pa.ArrowException):
        return None


def _read_deltas(paths: list[Path], lists: str | None) -> Iterator[npt.NDArray[np.integer]]:
    """Yield first-stage rank minus rank of each document, up to ``MOST_DOCUMENTS``."""
    left = MOST_DOCUMENTS
    column = "rerank_delta" if lists is None else f"{lists}.list.element.rerank_delta"
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[column]):
                values: Any = batch.column(0)
                if lists is not None:
                    values = pc.struct_field(pc.list_flatten(values), 0)
                deltas = values.drop_null().slice(0, left).to_numpy(zero_copy_only=False)
                yield deltas
                left -= len(deltas)
                if left <= 0:
                    return
