"""A store in memory with a store's exact promises, fast enough for thousands of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from rerank_jobs.storage import Entry, Put

__all__ = ["MemoryStore"]


class MemoryStore:
    """Objects in a dictionary; only what is fetched as a file touches ``files``, named by digest.

    ``clock`` dates objects. ``location`` is a folder of which only scratch space is ever made.
    """

    def __init__(self, location: str, files: Path, clock: Callable[[], float]) -> None:
        self.location = location
        self.objects: dict[str, tuple[bytes, float]] = {}
        self._files = files
        self._clock = clock

    def put_if_absent(self, name: str, data: bytes) -> Put:
        """Create the object, or compare it with the one that stands there."""
        if name in self.objects:
            return Put.SAME if self.objects[name][0] == data else Put.OTHER
        self.put(name, data)
        return Put.CREATED

    def put_file_if_absent(self, name: str, source: Path) -> Put:
        """Create the object from a file."""
        return self.put_if_absent(name, source.read_bytes())

    def put(self, name: str, data: bytes) -> None:
        """Create or replace the object."""
        self.objects[name] = (data, self._clock())

    replace = put

    def read(self, name: str) -> bytes:
        """Return the object's bytes."""
        if name not in self.objects:
            raise FileNotFoundError(2, "No such file or directory", f"{self.location}/{name}")
        return self.objects[name][0]

    def exists(self, name: str) -> bool:
        """Say whether the object exists."""
        return name in self.objects

    def entries(self, prefix: str = "") -> list[Entry]:
        """List the objects below a folder by name."""
        below = f"{prefix}/" if prefix else ""
        return [
            Entry(name, len(data), at)
            for name, (data, at) in sorted(self.objects.items())
            if name.startswith(below)
        ]

    def delete(self, name: str) -> None:
        """Remove the object if it exists."""
        self.objects.pop(name, None)

    def leftovers(self, older_than: float) -> list[str]:  # noqa: ARG002 - the protocol's
        """Return none: an object is whole or absent."""
        return []

    def fetch(self, name: str) -> Path:
        """Return a file with the object's bytes; equal bytes share one."""
        data = self.read(name)
        path = self._files / hashlib.sha256(data).hexdigest()
        if not path.exists():
            path.write_bytes(data)
        return path
