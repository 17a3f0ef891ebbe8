"""The score library: what was paid under earlier plans, per scorer, in a few sorted files.

Segments stay the truth. A scorer's newest numbered manifest alone says which files its library has;
which segments stand in them is noted beside the segments (``rerank_jobs.ledger.compaction``).
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from rerank_jobs.contracts import contract_versions
from rerank_jobs.errors import StateError
from rerank_jobs.storage import Put, Store, read_json, seal_json, sha256_of_file
from rerank_jobs.storage.store import iterate_numbered
from rerank_jobs.tables.sources import quote_text

__all__ = [
    "Library",
    "LibraryFile",
    "Lookup",
    "fetch_library",
    "find_scores",
    "list_scorers",
    "lookup_sql",
    "put_library",
    "read_library",
]


@dataclass(frozen=True, slots=True)
class LibraryFile:
    """A file of scores: name, SHA-256, bytes, rows."""

    name: str
    sha256: str
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class Library:
    """A scorer's library as its newest manifest says.

    ``number`` is the manifest's own, 0 where there is none. ``identity`` stays the same for as long
    as the library is not removed and begun again. ``old_segments`` stand in it by the word of a
    manifest of version 1, which named them.
    """

    number: int
    files: tuple[LibraryFile, ...]
    identity: str
    old_segments: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Lookup:
    """A DuckDB query of scores (``lookup_sql``) and the names of the library's files."""

    sql: str | None = None
    files: tuple[str, ...] = ()


def read_library(store: Store, scorer: str) -> Library:
    """Return the newest library of a scorer, number 0 if there is none.

    Raises:
        StateError: its manifest is damaged.

    """
    numbered = list(iterate_numbered(store, f"library/{scorer}/manifest", ".json"))
    if not numbered:
        return Library(0, (), uuid.uuid4().hex)
    try:
        document = read_json(store, numbered[-1][1])
    except StateError as error:
        raise StateError(f"{error}, or {_begin_anew(numbered[-1][1])}") from None
    names = LibraryFile.__dataclass_fields__
    files = [LibraryFile(**{name: item[name] for name in names}) for item in document["files"]]
    segments = [name for item in document["files"] for name in item.get("segments", ())]
    identity = document.get("library_id", "")
    return Library(numbered[-1][0], tuple(files), identity, frozenset(segments))


def list_scorers(store: Store) -> list[str]:
    """Return all scorers that have a library."""
    return sorted({entry.name.split("/")[1] for entry in store.entries("library")})


def put_library(
    store: Store, scorer: str, before: Library, files: Sequence[LibraryFile]
) -> Library | None:
    """Create the manifest that follows ``before``; ``None`` if another process was first.

    ``before.old_segments`` must have been noted beside the segments: they are not named again.
    """
    number = before.number + 1
    document = {
        "contract": "library",
        "version": contract_versions()["library"],
        "scorer_id": scorer,
        "library_id": before.identity,
        "number": number,
        "files": [asdict(file) for file in files],
    }
    name = f"library/{scorer}/manifest/{number:020d}.json"
    if store.put_if_absent(name, seal_json(document)) is Put.OTHER:
        return None
    return Library(number, tuple(files), before.identity)


def find_scores(
    store: Store, scorer: str, cutoff: datetime, *, seen: Collection[str] = ()
) -> Lookup:
    """Return ``lookup_sql`` of a scorer's newest library, without the files that were ``seen``.

    A file that was merged away and removed meanwhile is looked for under the newer manifest.

    Raises:
        StateError: a file of the newest library is gone or damaged.

    """
    while True:
        library = read_library(store, scorer)
        fresh = tuple(file for file in library.files if file.name not in seen)
        names = tuple(file.name for file in library.files)
        try:
            return Lookup(
                lookup_sql(store, dataclasses.replace(library, files=fresh), cutoff), names
            )
        except StateError:
            if read_library(store, scorer).number == library.number:
                raise


def lookup_sql(store: Store, library: Library, cutoff: datetime) -> str | None:
    """Return a DuckDB query of the scores that the table ``sends`` asks for, newest per pair.

    ``cutoff`` (UTC) leaves older scores out. ``None`` where the library is empty.

    Raises:
        StateError: a file of the library is gone or damaged.

    """
    if not library.files:
        return None
    found = fetch_library(store, library)
    paths = ", ".join(quote_text(str(path)) for path in found)
    instant = quote_text(cutoff.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00"))
    # Files of version 1 have no column parts.
    known = any("parts" in pq.read_schema(path).names for path in found)
    parts = "parts" if known else "NULL::INTEGER AS parts"
    return f"""SELECT query_key, passage_key, score, model, provider, received_at, {parts}
        FROM read_parquet([{paths}], union_by_name=true)
        SEMI JOIN sends USING (query_key, passage_key) WHERE received_at >= {instant}::TIMESTAMPTZ
        QUALIFY row_number() OVER (PARTITION BY query_key, passage_key
            ORDER BY received_at DESC, score DESC) = 1"""


def fetch_library(store: Store, library: Library) -> list[Path]:
    """Return a library's files as local paths, each checked against its SHA-256.

    From an object store every file is downloaded whole: keys are random, so a table's pairs lie in
    all parts of every file.

    Raises:
        StateError: a file is gone or damaged.

    """
    return [_fetch(store, file) for file in library.files]


def _fetch(store: Store, file: LibraryFile) -> Path:
    try:
        path = store.fetch(file.name)
    except FileNotFoundError:
        problem = "is gone"
    else:
        facts = path.stat()
        if facts.st_size == file.size and _digest(path, facts.st_mtime_ns) == file.sha256:
            return path
        problem = "is damaged"
    raise StateError(
        f"{store.location}/{file.name}: {problem}: restore it, or {_begin_anew(file.name)}"
    )


def _begin_anew(name: str) -> str:
    return (
        f"remove {'/'.join(name.split('/')[:2])} and run rerank-jobs ledger compact: what"
        " segments still hold comes back, the rest is paid again"
    )


@functools.lru_cache(maxsize=64)
def _digest(path: Path, _changed_ns: int) -> str:
    """Return the SHA-256 of a file, computed once per process."""
    return sha256_of_file(path)
