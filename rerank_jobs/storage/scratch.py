"""Scratch folders: local space for planning and merging that never outlives its process for long.

A scratch folder may hold text. It is locked while it is used, removed at the end, and what a killed
process left behind (its lock is free) is removed by the next one.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

__all__ = ["find_stale_scratch", "process_folder", "scratch_folder"]

PREFIX = "scratch-"

_process_lock = threading.Lock()
_process_folders: dict[int, TextIO] = {}


@contextlib.contextmanager
def scratch_folder(location: str) -> Iterator[Path]:
    """Yield an empty folder in ``location`` if it is local, else in the system's temporary one."""
    parent = _temporary() if "://" in location else Path(location)
    parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(parent)
    with _create(parent) as lock:
        folder = Path(lock.name).parent
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def process_folder() -> Path:
    """Return this process's one folder of the system's temporary space, which goes with it.

    A forked process gets one of its own.
    """
    with _process_lock:
        lock = _process_folders.get(os.getpid())
        if lock is None:
            parent = _temporary()
            parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(parent)
            lock = _process_folders[os.getpid()] = _create(parent)
            atexit.register(_remove_own, os.getpid(), Path(lock.name).parent)
        return Path(lock.name).parent


def find_stale_scratch(location: str, *, remove: bool = False) -> list[Path]:
    """Return scratch folders of a location that no process uses, and ``remove`` them if told."""
    parent = _temporary() if "://" in location else Path(location)
    found = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError), (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(folder)
            if remove:
                shutil.rmtree(folder, ignore_errors=True)
    return found


def _remove_own(process: int, folder: Path) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary() -> Path:
    # By user: what one user made, another could not write to.
    return Path(tempfile.gettempdir()) / f"rerank-jobs-{os.getuid()}"


def _create(parent: Path) -> TextIO:
    """Return the locked lock of a new folder."""
    while True:
        lock = (Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)) / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink:
            return lock
        lock.close()  # another process took it for a leftover before it was locked


def _remove_leftovers(parent: Path) -> None:
    find_stale_scratch(str(parent), remove=True)
