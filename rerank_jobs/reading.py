"""Reading published tables: one generation whole, the old one or the new one, never a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from rerank_jobs.config import ALL, Job, check_partition_key
from rerank_jobs.errors import SnapshotGone, StateError
from rerank_jobs.job_file import load_job
from rerank_jobs.planning import open_roots
from rerank_jobs.publish import generations
from rerank_jobs.publish.snapshots import Snapshot, take_snapshot

__all__ = ["read_current", "read_current_table", "read_generation"]

MOST_TRIES = 10


def read_current(job: str | Path | Job, partition: str = ALL) -> Snapshot:
    """Return the current generation of a partition, of a job or of its file.

    Raises:
        JobError: the job file or the partition's key is wrong.
        StateError: nothing is published yet, or the current manifest is damaged.

    """
    check_partition_key(partition)
    job = job if isinstance(job, Job) else load_job(Path(job))
    roots = open_roots(job)
    current = generations.read_current(roots.state, partition)
    if current is None:
        raise _explain_nothing(job, partition)
    return take_snapshot(roots, current)


def read_current_table(
    job: str | Path | Job, partition: str = ALL, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read the current generation whole; where a newer one replaces it meanwhile, that one.

    See ``Snapshot.to_table``; the schema's metadata names the generation that was read.

    Raises:
        JobError, StateError: see ``read_current``; or a file of the current generation is damaged
            or missing.

    """
    job = job if isinstance(job, Job) else load_job(Path(job))
    snapshot = read_current(job, partition)
    for _ in range(MOST_TRIES):
        try:
            return snapshot.to_table(columns)
        except SnapshotGone:
            newer = read_current(job, partition)
            if newer.generation == snapshot.generation:
                raise StateError(
                    f"job {job.name}: a file of generation {newer.generation} is missing:"
                    " rerank-jobs publish puts it back"
                ) from None
            snapshot = newer
    raise StateError(
        f"job {job.name}: {MOST_TRIES} generations were published while one was read: try again"
    )


def read_generation(job: Job, partition: str, number: int) -> Snapshot:
    """Return the current generation, or a retained earlier one from its copies under state.

    Raises:
        JobError: the partition's key is wrong.
        StateError: there is no such generation, or it is not retained.

    """
    current = read_current(job, partition)
    if number == current.generation:
        return current
    roots = open_roots(job)
    for one in generations.read_generations(roots.state, partition):
        if one.number == number:
            return take_snapshot(roots, one, retained=True)
    raise StateError(
        f"job {job.name}: there is no generation {number}: the current one is {current.generation}"
    )


def _explain_nothing(job: Job, partition: str) -> StateError:
    shown = "" if partition == ALL else f" for partition {partition}"
    return StateError(f"job {job.name}: nothing is published{shown} yet: rerank-jobs run does it")
