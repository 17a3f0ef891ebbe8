"""What every store promises, and JSON objects that carry their own checksum."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from rerank_jobs.errors import JobError, StateError

__all__ = ["Entry", "Put", "Store", "open_store", "read_json", "seal_json", "sha256_of_file"]


class Put(enum.Enum):
    """How a put-if-absent ended; only ``OTHER`` means that somebody else's object stands there."""

    CREATED = "created"
    SAME = "same"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a listing: name relative to the store's location, size in bytes.

    ``modified``: when it was created or last replaced by the store's own clock, in seconds since
    the epoch; entries are equal without it.
    """

    name: str
    size: int
    modified: float = field(compare=False)


class Store(Protocol):
    """Objects under one location, named by relative paths with forward slashes.

    A created object is whole and durable before its name is visible, or it does not exist.
    """

    location: str

    def put_if_absent(self, name: str, data: bytes) -> Put:
        """Create the object, or say whether the one that stands there holds the same bytes."""

    def put_file_if_absent(self, name: str, source: Path) -> Put:
        """Create the object from a local file, which is moved or copied."""

    def put(self, name: str, data: bytes) -> None:
        """Create or replace a small object that may be torn or stale without harm (a beat)."""

    def replace(self, name: str, data: bytes) -> None:
        """Create or replace an object: whole and durable before the call returns."""

    def read(self, name: str) -> bytes:
        """Return the object's bytes; raises ``FileNotFoundError``."""

    def exists(self, name: str) -> bool:
        """Say whether the object exists."""

    def entries(self, prefix: str = "") -> list[Entry]:
        """List all objects at or below the folder ``prefix``, sorted by name; none is no error."""

    def delete(self, name: str) -> None:
        """Remove the object if it exists."""

    def leftovers(self, older_than: float) -> list[str]:
        """Return names of temporary files that were last written ``older_than`` seconds ago.

        A process that died while it created an object left them; ``delete`` removes them.
        """

    def fetch(self, name: str) -> Path:
        """Return a local file with the object's bytes, to be read and not changed."""


def open_store(location: str) -> Store:
    """Return the store of a location: a folder's path, or scheme://bucket/folder.

    Raises:
        JobError: the location is of a kind that this version cannot reach, or is not well formed.

    """
    if "://" not in location:
        from rerank_jobs.storage.local import LocalStore

        return LocalStore(location)
    from rerank_jobs.storage.buckets import SCHEMES
    from rerank_jobs.storage.objects import ObjectStore

    scheme = location.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES if name != "memory")
        raise JobError(f"{scheme}:// locations are not supported: use {known} or a local path")
    return ObjectStore(location)


def seal_json(value: dict[str, Any]) -> bytes:
    """Encode ``value`` (sorted keys, indented, readable) with the SHA-256 of the rest inside."""
    body = {key: item for key, item in value.items() if key != "sha256"}
    return _encode({**body, "sha256": hashlib.sha256(_encode(body)).hexdigest()})


def read_json(store: Store, name: str) -> dict[str, Any]:
    """Read an object written by ``seal_json``.

    Raises:
        FileNotFoundError: there is none.
        StateError: it is torn, changed or not one of ours.

    """
    data = store.read(name)
    try:
        value = orjson.loads(data)
        valid = seal_json(value) == data
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        valid = False
    if not valid:
        raise StateError(
            f"{store.location}/{name}: damaged (its checksum does not fit): restore it"
        )
    return dict(value)


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(value: dict[str, Any]) -> bytes:
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, option=options)


def iterate_numbered(store: Store, prefix: str, suffix: str) -> Iterator[tuple[int, str]]:
    """Yield (number, name) of objects ``<prefix>/<digits><suffix>`` in ascending order."""
    for entry in store.entries(prefix):
        stem = entry.name.removeprefix(prefix + "/")
        if stem.endswith(suffix) and stem.removesuffix(suffix).isdecimal():
            yield int(stem.removesuffix(suffix)), entry.name
