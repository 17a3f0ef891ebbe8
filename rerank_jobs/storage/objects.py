"""Buckets as a store: one conditional PUT creates an object, and a read-back settles every doubt.

A reply can be lost after its request took effect; a client or proxy that then repeats the request
is answered "already exists" about its own object. S3 also answers a create with 409 while another
is in flight, which obstore reports as "already exists" of an object that may never come. So nothing
is concluded from an answer alone: what stands there is read back and compared.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from rerank_jobs.errors import JobError
from rerank_jobs.storage.buckets import open_bucket, split_location
from rerank_jobs.storage.failures import explain
from rerank_jobs.storage.scratch import process_folder
from rerank_jobs.storage.store import Entry, Put, sha256_of_file

__all__ = ["ObjectStore"]

REQUEST_SECONDS = 60
SLOWEST_BYTES_PER_SECOND = 1 << 20
BLOCK_BYTES = 16 << 20
CONFLICT_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds between tries of a create that met a 409 and left nothing to be seen."""
FETCH_TRIES = 3


class _ReplacedError(OSError):
    """The object became another one while it was read."""


class ObjectStore:
    """Objects under a prefix of a bucket; safe to use from many threads.

    Created objects are whole before they can be seen, and a listing or read that begins after a
    call returned sees its effect (S3, Google Cloud Storage and Azure are strongly consistent).
    Every failure is an ``OSError`` that names the object and holds no URL, key or token; a bucket
    that does not exist is a ``JobError``. Keys, region and endpoint come from the environment.
    """

    def __init__(self, location: str) -> None:
        """Name the bucket and the prefix without touching them.

        Raises:
            JobError: the location names no bucket, holds a secret, or cannot be opened.

        """
        self.location = location
        self._scheme, self._bucket, self._prefix = split_location(location)
        self._bucket_store = open_bucket(self._scheme, self._bucket, REQUEST_SECONDS)

    def __repr__(self) -> str:
        """Show the location only."""
        return f"ObjectStore({self.location!r})"

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str]]:
        """Pickle the location; the other process has keys of its own."""
        return ObjectStore, (self.location,)

    def put_if_absent(self, name: str, data: bytes) -> Put:
        """Create the object, or compare it with the one that stands there."""
        return self._create(name, data, lambda: self.read(name) == data)

    def put_file_if_absent(self, name: str, source: Path) -> Put:
        """Create the object from ``source``, which is mapped, not read into memory."""
        # The memory store keeps what it is given: not a file that may change.
        data = source.read_bytes() if self._scheme == "memory" else _map(source)
        return self._create(name, data, lambda: self._holds(name, source))

    def put(self, name: str, data: bytes) -> None:
        """Create or replace a small object."""
        with self._explaining(name, writing=True):
            obstore.put(self._bucket_store, self._key(name), data, use_multipart=False)

    replace = put

    def read(self, name: str) -> bytes:
        """Return the object's bytes."""
        with self._explaining(name):
            return bytes(obstore.get(self._bucket_store, self._key(name)).bytes())

    def exists(self, name: str) -> bool:
        """Say whether the object exists."""
        try:
            self._head(name)
        except FileNotFoundError:
            return False
        return True

    def entries(self, prefix: str = "") -> list[Entry]:
        """List all objects at or below ``prefix``, sorted by name."""
        found = []
        whole = "/".join(part for part in (self._prefix, prefix) if part)
        with self._explaining(prefix, writing=True):
            for chunk in obstore.list(self._bucket_store, whole or None, chunk_size=1000):
                for meta in chunk:
                    name = meta["path"].removeprefix(f"{self._prefix}/" if self._prefix else "")
                    found.append(Entry(name, meta["size"], meta["last_modified"].timestamp()))
        return sorted(found, key=lambda entry: entry.name)

    def leftovers(self, older_than: float) -> list[str]:  # noqa: ARG002 - the protocol's
        """Return none: an object is whole or absent; a bucket's own rules end broken uploads."""
        return []

    def delete(self, name: str) -> None:
        """Remove the object if it exists."""
        with contextlib.suppress(FileNotFoundError), self._explaining(name):
            obstore.delete(self._bucket_store, self._key(name))

    def fetch(self, name: str) -> Path:
        """Return a local copy, made once per process and version of the object.

        It is whole before it has its name, and goes with the process.
        """
        for tries_left in reversed(range(FETCH_TRIES)):
            try:
                return self._copy(name)
            except _ReplacedError:
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _copy(self, name: str) -> Path:
        meta = self._head(name)
        version = f"{self.location}/{name} {meta['e_tag']} {meta['version']} {meta['size']}"
        path = process_folder() / hashlib.sha256(version.encode()).hexdigest()
        if path.exists():
            return path
        temporary = path.with_name(f"{path.name}.{uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                for block in self._read_blocks(name, meta):
                    file.write(block)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def _create(self, name: str, data: Any, is_ours: Callable[[], bool]) -> Put:
        """Put with ``If-None-Match: *``; ``is_ours`` compares with what stands there."""
        store = self._bucket_store
        if len(data) > REQUEST_SECONDS * SLOWEST_BYTES_PER_SECOND:
            seconds = len(data) // SLOWEST_BYTES_PER_SECOND
            store = open_bucket(self._scheme, self._bucket, REQUEST_SECONDS + seconds)
        for pause in (*CONFLICT_PAUSES, None):
            try:
                obstore.put(store, self._key(name), data, mode="create", use_multipart=False)
            except (BaseError, OSError, ValueError) as error:
                exists = isinstance(error, AlreadyExistsError)
                failure = explain(error, self.location, name, writing=True)
            else:
                return Put.CREATED
            if isinstance(failure, JobError):
                raise failure
            try:
                ours = is_ours()
            except FileNotFoundError:
                if pause is None or not exists:
                    raise failure from None
            except OSError:
                raise failure from None
            else:
                return (Put.SAME if exists else Put.CREATED) if ours else Put.OTHER
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _holds(self, name: str, source: Path) -> bool:
        """Compare an object with a file, block by block."""
        meta = self._head(name)
        if meta["size"] != source.stat().st_size:
            return False
        digest = hashlib.sha256()
        for block in self._read_blocks(name, meta):
            digest.update(block)
        return digest.hexdigest() == sha256_of_file(source)

    def _head(self, name: str) -> Any:
        with self._explaining(name):
            return obstore.head(self._bucket_store, self._key(name))

    def _read_blocks(self, name: str, meta: Any) -> Iterator[Any]:
        """Yield the bytes of the version that ``meta`` describes.

        Each block is a request of its own, so that a large object needs no long one.

        Raises:
            _ReplacedError: another version stands there now.

        """
        for start in range(0, meta["size"], BLOCK_BYTES):
            options: Any = {"range": (start, min(start + BLOCK_BYTES, meta["size"]))}
            if meta["e_tag"]:
                options["if_match"] = meta["e_tag"]
            try:
                answer = obstore.get(self._bucket_store, self._key(name), options=options)
                block = answer.bytes()
            except PreconditionError:
                where = f"{self.location}/{name}"
                raise _ReplacedError(errno.EBUSY, "replaced while it was read", where) from None
            except (BaseError, OSError, ValueError) as error:
                raise explain(error, self.location, name) from None
            yield block

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextlib.contextmanager
    def _explaining(self, name: str, *, writing: bool = False) -> Iterator[None]:
        """Turn what obstore raises into an ``OSError`` of ours."""
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise explain(error, self.location, name, writing=writing) from None


def _map(source: Path) -> Any:
    """Return a file's bytes as a buffer that pages in from disk.

    It is unmapped with its last user, which after an error may be a request in the background.
    """
    if source.stat().st_size == 0:
        return b""
    with source.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
