"""The score library: what was paid under earlier plans, per scorer, sorted by key.

Segments stay the truth; a library file is made from them once, and the library's own numbered
manifest says which files and which segments it holds. Compacting twice changes nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.storage import Put, Store, read_json, seal_json, sha256_of_file
from rerank_jobs.storage.store import iterate_numbered
from rerank_jobs.tables.sink import write_parquet
from rerank_jobs.tables.sources import quote_text

__all__ = ["Library", "compact", "lookup_sql", "read_library"]

ROW_GROUP = 65_536


@dataclass(frozen=True, slots=True)
class Library:
    """A scorer's library at one version: files (names in the store) and the segments they hold."""

    version: int
    files: tuple[str, ...]
    segments: frozenset[str]


def read_library(store: Store, scorer: str) -> Library:
    """Return the newest library of a scorer; version 0 if there is none."""
    numbered = list(iterate_numbered(store, f"library/{scorer}/manifest", ".json"))
    if not numbered:
        return Library(0, (), frozenset())
    document = read_json(store, numbered[-1][1])
    files = [item["name"] for item in document["files"]]
    segments = [name for item in document["files"] for name in item["segments"]]
    return Library(numbered[-1][0], tuple(files), frozenset(segments))


def compact(store: Store, scorer: str, run: str, plan_id: str) -> int:
    """Add a run's sealed scores to the library; return how many pairs were added.

    ``run`` is the folder of one plan's shards. Safe to repeat and to race: a segment enters once.
    """
    while True:
        library = read_library(store, scorer)
        loaded = load_segments(store, run, plan_id)
        fresh = [name for name in loaded.segments if name not in library.segments]
        if not fresh:
            return 0
        scores = loaded.pairs.filter(pc.is_valid(loaded.pairs.column("score")))
        scores = scores.select(arrow_schema("library").names)
        scores = scores.sort_by([("query_key", "ascending"), ("passage_key", "ascending")])
        entry = _put_scores(store, scorer, scores, fresh)
        if _put_manifest(store, scorer, library.version, entry):
            return int(scores.num_rows)


def _put_scores(
    store: Store, scorer: str, scores: pa.Table, segments: list[str]
) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="rerank-jobs-") as folder:
        path = Path(folder) / "scores.parquet"
        write_parquet(path, arrow_schema("library"), scores.to_batches(), row_group=ROW_GROUP)
        digest = sha256_of_file(path)
        name = f"library/{scorer}/scores-{digest[:8]}.parquet"
        store.put_file_if_absent(name, path)
    return {"name": name, "sha256": digest, "rows": scores.num_rows, "segments": segments}


def _put_manifest(store: Store, scorer: str, version: int, entry: dict[str, object]) -> bool:
    folder = f"library/{scorer}/manifest"
    earlier = read_json(store, f"{folder}/{version:020d}.json")["files"] if version else []
    document = {
        "contract": "library",
        "version": version + 1,
        "files": [*[item for item in earlier if item["name"] != entry["name"]], entry],
    }
    name = f"{folder}/{version + 1:020d}.json"
    return store.put_if_absent(name, seal_json(document)) is not Put.OTHER


def lookup_sql(store: Store, library: Library, cutoff: datetime) -> str | None:
    """Return a DuckDB query of the scores that the table ``sends`` asks for, newest per pair.

    ``cutoff`` (UTC) leaves older scores out. ``None`` where the library is empty.
    """
    if not library.files:
        return None
    paths = ", ".join(quote_text(str(store.fetch(name))) for name in library.files)
    instant = quote_text(cutoff.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00"))
    return f"""SELECT query_key, passage_key, score, model, provider FROM read_parquet([{paths}])
        SEMI JOIN sends USING (query_key, passage_key) WHERE received_at >= {instant}::TIMESTAMPTZ
        QUALIFY row_number() OVER (PARTITION BY query_key, passage_key
            ORDER BY received_at DESC, score DESC) = 1"""
