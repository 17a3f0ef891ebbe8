"""Whether a partition's input is there yet: one listing, and nothing of any file is read."""

from __future__ import annotations

import os
from pathlib import Path

from rerank_jobs.config import Job
from rerank_jobs.errors import JobError
from rerank_jobs.tables.sources import find_tables, locate_input

__all__ = ["is_input_there"]


def is_input_there(job: Job, partition: str, ready_file: str = "") -> bool:
    """Say whether the partition's input can be planned.

    It can once its file, or one Parquet file in its folder, is there. With ``ready_file``, a path
    from that folder (``_SUCCESS``, ``../{partition}.done``), only once that file is there too:
    writers that fill the folder bit by bit write it last. ``{partition}`` in it is the partition's
    folder name.

    Raises:
        JobError: see ``locate_input``; or ``ready_file`` is a location of another kind.

    """
    root = locate_input(job, partition)
    if ready_file:
        if "://" in ready_file:
            raise JobError(f"ready file {ready_file}: name a path from the partition's folder")
        folder = root.parent if root.is_file() else root
        name = ready_file.replace("{partition}", job.partition_folder(partition))
        # A marker beside the folder may come before the folder does, so ".." is taken from names.
        if not Path(os.path.normpath(folder / name)).is_file():
            return False
    return root.is_file() or next(find_tables(root), None) is not None
