"""Masking: pairs whose texts are erased can be found in the ledger and the library no more.

A key is derived from a text with a salt that lies in the same root, so whoever has the root can
test a guess: it is personal data where the text was. In a segment random keys take the places of
such keys and the scores go; what the reply cost stays, and so does the segment's name. From the
library such pairs are removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.ledger.compaction import put_scores
from rerank_jobs.ledger.library import LibraryFile, fetch_library, put_library, read_library
from rerank_jobs.ledger.loading import list_segments
from rerank_jobs.ledger.segments import decode_segment, encode_rows
from rerank_jobs.ledger.sorted_scores import write_scores
from rerank_jobs.storage import Store, scratch_folder

__all__ = ["Masked", "PairKeys", "drop_scores", "mask_segments"]

KEY_BYTES = 16
BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class PairKeys:
    """Keys of queries and of passages; a pair that has either is meant."""

    queries: frozenset[bytes] = field(default=frozenset(), repr=False)
    passages: frozenset[bytes] = field(default=frozenset(), repr=False)

    def plus(self, other: PairKeys) -> PairKeys:
        """Return both together."""
        return PairKeys(self.queries | other.queries, self.passages | other.passages)

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return bool(self.queries or self.passages)


@dataclass(frozen=True, slots=True)
class Masked:
    """How many files and pairs are, or would be, changed; files that nobody can read."""

    files: int = 0
    pairs: int = 0
    unreadable: int = 0

    def plus(self, other: Masked) -> Masked:
        """Add up."""
        return Masked(
            self.files + other.files,
            self.pairs + other.pairs,
            self.unreadable + other.unreadable,
        )


def mask_segments(store: Store, folder: str, keys: PairKeys, *, write: bool) -> Masked:
    """Mask pairs in all segments under ``folder``; without ``write`` only count them.

    Each segment is replaced whole. A torn one is left as it is and counted.
    """
    total = Masked()
    for name in list_segments(store, folder) if keys else ():
        try:
            rows = decode_segment(store.read(name))
        except ValueError:
            total = total.plus(Masked(unreadable=1))
            continue
        values: list[dict[str, Any]] = rows.to_pylist()
        pairs = sum(_mask_reply(reply, keys) for reply in values)
        if pairs:
            total = total.plus(Masked(1, pairs))
            if write:
                batch = pa.RecordBatch.from_pylist(values, schema=rows.schema)
                store.replace(name, encode_rows(batch))
    return total


def _mask_reply(reply: dict[str, Any], keys: PairKeys) -> int:
    """Mask what is meant of one reply in place; return how many pairs."""
    whole = reply["query_key"] in keys.queries
    meant = [whole or key in keys.passages for key in reply["passage_keys"]]
    if not any(meant):
        return 0
    passages = zip(meant, reply["passage_keys"], strict=True)
    reply["passage_keys"] = [os.urandom(KEY_BYTES) if hit else key for hit, key in passages]
    if reply["scores"]:
        scores = zip(meant, reply["scores"], strict=True)
        reply["scores"] = [None if hit else score for hit, score in scores]
    if whole:
        reply["query_key"] = os.urandom(KEY_BYTES)
    reply["response_id"] = None
    return sum(meant)


def drop_scores(store: Store, scorer: str, keys: PairKeys, *, write: bool) -> Masked:
    """Remove pairs from a scorer's library, and its files that held them; or only count them.

    Raises:
        StateError: a manifest or file of the library is damaged.

    """
    if not keys:
        return Masked()
    total = Masked()
    while True:
        library = read_library(store, scorer)
        paths = fetch_library(store, library)
        counts = [_count(path, keys) for path in paths]
        total = total.plus(Masked(sum(map(bool, counts)), sum(counts)))
        if not write or not any(counts):
            break
        files = []
        for file, path, count in zip(library.files, paths, counts, strict=True):
            kept = _put_rest(store, scorer, path, keys) if count else file
            files += [] if kept is None or kept in files else [kept]
        if put_library(store, scorer, library, files) is not None:
            break
        total = Masked()  # another process was first
    if write:
        _delete_old(store, scorer, keys)
    return total


def _delete_old(store: Store, scorer: str, keys: PairKeys) -> None:
    """Remove files that the newest manifest does not name, if they hold what is meant."""
    named = {file.name for file in read_library(store, scorer).files}
    for entry in store.entries(f"library/{scorer}"):
        if entry.name.endswith(".parquet") and entry.name not in named:
            with contextlib.suppress(FileNotFoundError):
                if _count(store.fetch(entry.name), keys):
                    store.delete(entry.name)


def _put_rest(store: Store, scorer: str, path: Path, keys: PairKeys) -> LibraryFile | None:
    with scratch_folder(store.location) as folder:
        target = folder / "scores.parquet"
        with pq.ParquetFile(path) as file:
            rest = (batch.filter(pc.invert(_find(batch, keys))) for batch in _read(file))
            rows = write_scores(target, (pa.Table.from_batches([one]) for one in rest))
        return put_scores(store, scorer, target) if rows else None


def _count(path: Path, keys: PairKeys) -> int:
    """Count the pairs of a library file that are meant; a file that nobody can read has none."""
    try:
        with pq.ParquetFile(path) as file:
            columns = ["query_key", "passage_key"]
            return sum(pc.sum(_find(one, keys)).as_py() or 0 for one in _read(file, columns))
    except (pa.ArrowException, OSError):
        return 0


def _read(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    yield from file.iter_batches(BATCH_ROWS, columns=columns)


def _find(batch: pa.RecordBatch, keys: PairKeys) -> Any:
    found = [
        pc.is_in(batch.column(name).cast(pa.binary()), pa.array(sorted(values), pa.binary()))
        for name, values in (("query_key", keys.queries), ("passage_key", keys.passages))
    ]
    return pc.or_(*found)
