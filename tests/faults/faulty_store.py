"""A store whose calls are numbered, and fail where they are told to, before or after effect.

Listings are never stale here: neither a local folder nor S3 (since December 2020), nor any other
store that this package writes to, shows a listing without what was created before it began.
"""

from __future__ import annotations

import enum
import errno
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerank_jobs.storage import Entry, Put, Store

__all__ = ["Call", "Fault", "FaultyStore", "Injector", "faults_of"]

EFFECTS = frozenset({"put_if_absent", "put_file_if_absent", "put", "replace", "delete"})
"""Calls that change something; what they did may stand although they fail."""


class Fault(enum.Enum):
    """What happens instead of a call, or behind it."""

    IO = "EIO before effect"
    FULL = "ENOSPC before effect"
    DENIED = "EACCES before effect"
    TIMEOUT = "time-out before effect"
    LOST = "EIO after effect"
    LATE_TIMEOUT = "time-out after effect"
    TORN = "half of the bytes, then EIO"
    STALL = "the process stands still while others go on"


ERRORS = {
    Fault.IO: errno.EIO,
    Fault.FULL: errno.ENOSPC,
    Fault.DENIED: errno.EACCES,
    Fault.TIMEOUT: errno.ETIMEDOUT,
    Fault.LOST: errno.EIO,
    Fault.LATE_TIMEOUT: errno.ETIMEDOUT,
    Fault.TORN: errno.EIO,
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a store: ``where`` is the last part of the store's location."""

    method: str
    where: str
    name: str

    def __str__(self) -> str:
        """Show the call as a line of a report."""
        return f"{self.method} {self.where}/{self.name}"


def faults_of(call: Call) -> list[Fault]:
    """Return the faults that a call can meet: only ``put`` may be torn, only effects be lost."""
    kinds = [Fault.IO, Fault.DENIED, Fault.TIMEOUT, Fault.STALL]
    if call.method in EFFECTS:
        kinds += [Fault.LOST, Fault.LATE_TIMEOUT]
    if call.method in EFFECTS - {"delete"}:
        kinds.append(Fault.FULL)
    if call.method == "put":
        kinds.append(Fault.TORN)
    return kinds


@dataclass
class Injector:
    """Numbers the calls of all stores of a job from 0 and breaks the ones in ``faults``.

    A fault that its call cannot meet is that call's time-out. ``stall`` is what others do
    meanwhile; it is called outside every lock, and its own calls are neither numbered nor broken.
    """

    faults: Mapping[int, Fault] = field(default_factory=dict)
    stall: Callable[[], None] = lambda: None
    calls: list[Call] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stalled: bool = False

    def note(self, call: Call) -> Fault | None:
        """Give a call its number and return what is to happen to it."""
        with self._lock:
            if self._stalled:
                return None
            fault = self.faults.get(len(self.calls))
            self.calls.append(call)
        if fault is not None and fault not in faults_of(call):
            return Fault.TIMEOUT
        return fault

    def stand_still(self) -> None:
        """Let others go on."""
        self._stalled = True
        try:
            self.stall()
        finally:
            self._stalled = False


class FaultyStore:
    """A store behind an injector, with the same methods."""

    def __init__(self, inner: Store, injector: Injector) -> None:
        self.inner = inner
        self.location = inner.location
        self._injector = injector

    def put_if_absent(self, name: str, data: bytes) -> Put:
        """Create an object, or not."""
        return self._do("put_if_absent", name, data)  # type: ignore[no-any-return]

    def put_file_if_absent(self, name: str, source: Path) -> Put:
        """Create an object from a file, or not."""
        return self._do("put_file_if_absent", name, source)  # type: ignore[no-any-return]

    def put(self, name: str, data: bytes) -> None:
        """Replace an object, or not, or half."""
        self._do("put", name, data)

    def replace(self, name: str, data: bytes) -> None:
        """Replace an object durably, or not."""
        self._do("replace", name, data)

    def read(self, name: str) -> bytes:
        """Read an object, or not."""
        return self._do("read", name)  # type: ignore[no-any-return]

    def exists(self, name: str) -> bool:
        """Look for an object, or not."""
        return self._do("exists", name)  # type: ignore[no-any-return]

    def entries(self, prefix: str = "") -> list[Entry]:
        """List objects, or not."""
        return self._do("entries", prefix)  # type: ignore[no-any-return]

    def delete(self, name: str) -> None:
        """Remove an object, or not."""
        self._do("delete", name)

    def leftovers(self, older_than: float) -> list[str]:
        """List temporary files."""
        return self.inner.leftovers(older_than)

    def fetch(self, name: str) -> Path:
        """Fetch an object as a file, or not."""
        return self._do("fetch", name)  # type: ignore[no-any-return]

    def _do(self, method: str, name: str, *arguments: Any) -> Any:
        fault = self._injector.note(Call(method, self.location.rpartition("/")[2], name))
        call: Callable[..., Any] = getattr(self.inner, method)
        if fault is None:
            return call(name, *arguments)
        if fault is Fault.STALL:
            self._injector.stand_still()
            return call(name, *arguments)
        if fault in {Fault.LOST, Fault.LATE_TIMEOUT}:
            call(name, *arguments)
        elif fault is Fault.TORN:
            call(name, arguments[0][: len(arguments[0]) // 2])
        number = ERRORS[fault]
        raise OSError(number, os.strerror(number), f"{self.location}/{name}")
