"""Local folders as a store: tmp, write, fsync, link, fsync of the folder.

``link`` fails if the name exists, so exactly one creator wins; the bytes are on disk before the
name is, and the name is on disk before the call returns (the order that survives power loss:
without it 7 of 31 crash states showed a name without its data).

A file system without hard links is refused. One that cannot sync a folder (some network and FUSE
mounts answer EINVAL) is used, because then it decides itself when names are durable; ``doctor``
says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from rerank_jobs.storage.store import Entry, Put, sha256_of_file

__all__ = ["LocalStore", "sync_folder"]

TEMPORARY = ".tmp-"

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


class LocalStore:
    """A folder; it and its sub-folders are made when the first object is put."""

    def __init__(self, location: str) -> None:
        """Name the folder without touching it."""
        self.location = location
        self._root = Path(location)
        self._durable: set[Path] = set()

    def put_if_absent(self, name: str, data: bytes) -> Put:
        """Create the object, or compare it with the one that stands there."""
        target = self._make_room(name)
        temporary = _temporary_beside(target)
        try:
            _write_durably(temporary, data)
            if _link(temporary, target):
                return Put.CREATED
        finally:
            temporary.unlink(missing_ok=True)
        return Put.SAME if target.read_bytes() == data else Put.OTHER

    def put_file_if_absent(self, name: str, source: Path) -> Put:
        """Create the object from ``source``, which stays where it is."""
        target = self._make_room(name)
        temporary = _temporary_beside(target)
        try:
            if not _try_link(source, temporary):
                shutil.copyfile(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if _link(temporary, target):
                return Put.CREATED
        finally:
            temporary.unlink(missing_ok=True)
        return Put.SAME if sha256_of_file(target) == sha256_of_file(source) else Put.OTHER

    def put(self, name: str, data: bytes) -> None:
        """Create or replace a small object, by rename."""
        target = self._make_room(name)
        temporary = _temporary_beside(target)
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def replace(self, name: str, data: bytes) -> None:
        """Create or replace an object, by rename, durable before and after."""
        target = self._make_room(name)
        temporary = _temporary_beside(target)
        try:
            _write_durably(temporary, data)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)

    def read(self, name: str) -> bytes:
        """Return the object's bytes."""
        return (self._root / name).read_bytes()

    def exists(self, name: str) -> bool:
        """Say whether the object exists."""
        return (self._root / name).is_file()

    def entries(self, prefix: str = "") -> list[Entry]:
        """List all finished objects at or below ``prefix``, sorted by name."""
        found = [
            Entry(name, facts.st_size, facts.st_mtime)
            for name, facts in self._walk(prefix)
            if not _is_temporary(name)
        ]
        return sorted(found, key=lambda entry: entry.name)

    def leftovers(self, older_than: float) -> list[str]:
        """Return names of temporary files made or written ``older_than`` seconds ago, sorted.

        One that is younger may be another process's, about to be linked.
        """
        latest = time.time() - older_than
        # Not the time of writing: a temporary name may be a link to a file that is long finished.
        return sorted(
            name
            for name, facts in self._walk("")
            if _is_temporary(name) and facts.st_ctime <= latest
        )

    def _walk(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        for folder, _, names in os.walk(self._root / prefix, onerror=_raise_unless_gone):
            relative = os.path.relpath(folder, self._root)
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # removed while we looked
                    facts = os.stat(f"{folder}/{name}")  # noqa: PTH116 - a Path costs more than it
                    yield (name if relative == "." else f"{relative}/{name}"), facts

    def delete(self, name: str) -> None:
        """Remove the object, and folders that it leaves empty, up to the root."""
        target = self._root / name
        target.unlink(missing_ok=True)
        for folder in target.parents:
            if folder == self._root or self._root not in folder.parents:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def fetch(self, name: str) -> Path:
        """Return the file itself."""
        path = self._root / name
        if not path.is_file():
            raise FileNotFoundError(path)
        return path

    def _make_room(self, name: str) -> Path:
        """Make the object's folders; whoever made one may have died before it was durable.

        So each is made durable in its parent once by every process that puts something in it.
        """
        target = self._root / name
        new = [folder for folder in target.parents if not folder.exists()]
        new += [
            folder
            for folder in target.parents
            if self._root in folder.parents and folder not in self._durable
        ]
        target.parent.mkdir(parents=True, exist_ok=True)
        for folder in dict.fromkeys(new):
            sync_folder(folder.parent)
            self._durable.add(folder)
        return target


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY)


def _temporary_beside(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        created = False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        reason = "this file system makes no hard links, which create a file once: use another one"
        raise OSError(error.errno, reason, str(target)) from None
    else:
        created = True
    # What stood there counts as durable too: its creator may have died before it got here.
    sync_folder(target.parent)
    return created


def _raise_unless_gone(error: OSError) -> None:
    """Let no listing come back short: what cannot be listed would be paid again."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _try_link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> bool:
    """Make the names in a folder durable; return False where the file system cannot."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        return False
    finally:
        os.close(descriptor)
    return True
