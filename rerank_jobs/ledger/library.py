"""The score library: what was paid under earlier plans, per scorer, sorted by key.

Segments stay the truth; a library file is made from them once, and the library's own numbered
manifest says which files and which segments it holds. Compacting twice changes nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.contracts import arrow_schema, contract_versions
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.loading import list_segments, load_segments
from rerank_jobs.storage import Put, Store, read_json, seal_json, sha256_of_file
from rerank_jobs.storage.store import iterate_numbered
from rerank_jobs.tables.sink import write_parquet
from rerank_jobs.tables.sources import quote_text

__all__ = ["Library", "compact", "lookup_sql", "read_library"]

ROW_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class Library:
    """A scorer's library as its newest manifest says: files, and the segments that they hold.

    ``number`` is the manifest's own, 0 where there is none; ``files`` are (name, bytes).
    """

    number: int
    files: tuple[tuple[str, int], ...]
    segments: frozenset[str]


def read_library(store: Store, scorer: str) -> Library:
    """Return the newest library of a scorer, number 0 if there is none.

    Raises:
        StateError: its manifest is damaged.

    """
    numbered = list(iterate_numbered(store, f"library/{scorer}/manifest", ".json"))
    if not numbered:
        return Library(0, (), frozenset())
    document = read_json(store, numbered[-1][1])
    files = [(item["name"], item["size"]) for item in document["files"]]
    segments = [name for item in document["files"] for name in item["segments"]]
    return Library(numbered[-1][0], tuple(files), frozenset(segments))


def compact(store: Store, scorer: str, run: str, plan_id: str) -> int:
    """Add a run's sealed scores to the library; return how many pairs were added.

    ``run`` is the folder of one plan's shards. Safe to repeat and to race: a segment enters once.
    """
    while True:
        library = read_library(store, scorer)
        if all(name in library.segments for name in list_segments(store, run)):
            return 0
        loaded = load_segments(store, run, plan_id)
        fresh = [name for name in loaded.segments if name not in library.segments]
        if not fresh:
            return 0
        scores = loaded.pairs.filter(pc.is_valid(loaded.pairs.column("score")))
        scores = scores.select(arrow_schema("library").names)
        scores = scores.sort_by([("query_key", "ascending"), ("passage_key", "ascending")])
        entry = _put_scores(store, scorer, scores, fresh)
        if _put_manifest(store, scorer, library.number, entry):
            return int(scores.num_rows)


def _put_scores(store: Store, scorer: str, scores: pa.Table, segments: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rerank-jobs-") as folder:
        path = Path(folder) / "scores.parquet"
        write_parquet(path, arrow_schema("library"), scores.to_batches(), row_group=ROW_GROUP)
        digest = sha256_of_file(path)
        # A library may gather thousands of files: 8 digits would be too few to tell them apart.
        name = f"library/{scorer}/scores-{digest[:16]}.parquet"
        size = path.stat().st_size
        if store.put_file_if_absent(name, path) is Put.OTHER:
            raise StateError(f"{store.location}/{name}: damaged: remove it, run again")
    return {
        "name": name,
        "sha256": digest,
        "size": size,
        "rows": scores.num_rows,
        "segments": segments,
    }


def _put_manifest(store: Store, scorer: str, number: int, entry: dict[str, Any]) -> bool:
    folder = f"library/{scorer}/manifest"
    files = read_json(store, f"{folder}/{number:020d}.json")["files"] if number else []
    for item in files:
        if item["name"] == entry["name"]:  # the new segments held nothing but repeats
            item["segments"] = sorted({*item["segments"], *entry["segments"]})
            break
    else:
        files = [*files, entry]
    document = {
        "contract": "library",
        "version": contract_versions()["library"],
        "scorer_id": scorer,
        "number": number + 1,
        "files": files,
    }
    name = f"{folder}/{number + 1:020d}.json"
    return store.put_if_absent(name, seal_json(document)) is not Put.OTHER


def lookup_sql(store: Store, library: Library, cutoff: datetime) -> str | None:
    """Return a DuckDB query of the scores that the table ``sends`` asks for, newest per pair.

    ``cutoff`` (UTC) leaves older scores out. ``None`` where the library is empty.

    Raises:
        StateError: a file of the library is gone or was cut short.

    """
    if not library.files:
        return None
    paths = ", ".join(quote_text(str(_fetch(store, name, size))) for name, size in library.files)
    instant = quote_text(cutoff.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00"))
    return f"""SELECT query_key, passage_key, score, model, provider FROM read_parquet([{paths}])
        SEMI JOIN sends USING (query_key, passage_key) WHERE received_at >= {instant}::TIMESTAMPTZ
        QUALIFY row_number() OVER (PARTITION BY query_key, passage_key
            ORDER BY received_at DESC, score DESC) = 1"""


def _fetch(store: Store, name: str, size: int) -> Path:
    try:
        path = store.fetch(name)
    except FileNotFoundError:
        problem = "is gone"
    else:
        if path.stat().st_size == size:
            return path
        problem = "is damaged (its size differs)"
    raise StateError(
        f"{store.location}/{name}: {problem}: restore it, or remove {name.rpartition('/')[0]} and"
        " pay for its scores again"
    )
