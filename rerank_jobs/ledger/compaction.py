"""Compaction: sealed scores of a run go into the library once, and small files become large ones.

A run's marker, ``run/<plan>/compacted/<n>.json``, says which of its segments stand in the library.
It is created after the manifest: a crash between them makes the next compaction add the same scores
again, which changes nothing (the file has the same name), or adds repeats that a later merge drops.
Files that no manifest names any more are left to garbage collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.library import (
    Library,
    LibraryFile,
    fetch_library,
    put_library,
    read_library,
)
from rerank_jobs.ledger.loading import list_segments, load_segments
from rerank_jobs.ledger.sorted_scores import merge_sorted, sort_scores, write_scores
from rerank_jobs.ledger.tiers import choose_merge
from rerank_jobs.storage import Put, Store, read_json, scratch_folder, seal_json, sha256_of_file
from rerank_jobs.storage.store import iterate_numbered

__all__ = ["Marker", "compact", "merge_all", "put_scores", "read_markers", "upgrade_library"]

SORT_ROWS = 1_000_000
"""Scores that are sorted in memory at once, unless a single shard has more."""

MERGED_AT_ONCE = 32
"""Files that are merged in one pass: each has some rows in memory."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What one compaction took from a run.

    ``segments`` stand in the library of ``identity`` since its manifest ``number``; ``ignored``
    segments were torn or foreign, and hold nothing that anyone could read.
    """

    scorer_id: str
    identity: str
    number: int
    segments: tuple[str, ...]
    ignored: tuple[str, ...]


def compact(store: Store, scorer: str, run: str, plan_id: str, *, again: bool = False) -> int:
    """Add a run's sealed scores to the library, then merge what is small; return the pairs added.

    ``run`` is the folder of one plan's shards. Safe to repeat, to race and to be killed in: no
    score is lost, and a segment enters once. Of a pair that the run paid twice the first score
    enters; refusals never do. Segments that were ignored are tried again only if ``again``.

    Raises:
        StateError: the library's manifest is damaged.

    """
    library = read_library(store, scorer)
    _note_old_segments(store, scorer, library)
    fresh = _list_fresh(store, scorer, run, library, again=again)
    if not fresh:
        return 0
    with scratch_folder(store.location) as folder:
        path, segments, ignored = _write_run(store, plan_id, fresh, folder)
        if again and not segments:
            return 0  # what was ignored is as it was
        file = put_scores(store, scorer, path) if path is not None and segments else None
        library = _add_file(store, scorer, file)
        if file is not None and path is not None:
            _make_sure(store, scorer, file, path)
        marker = Marker(scorer, library.identity, library.number, segments, ignored)
        _put_marker(store, run, marker)
        with contextlib.suppress(StateError):  # planning tells of damage; what is paid stands in it
            _merge_small(store, scorer, folder)
    return file.rows if file is not None else 0


def merge_all(store: Store, scorer: str) -> Library:
    """Merge a scorer's library to one file; return the library as it then is.

    Raises:
        StateError: the library's manifest or one of its files is damaged.

    """
    with scratch_folder(store.location) as folder:
        library = read_library(store, scorer)
        _note_old_segments(store, scorer, library)
        while len(library.files) > 1:
            _merge(store, scorer, library, library.files[:MERGED_AT_ONCE], folder)
            library = read_library(store, scorer)
        return library


def upgrade_library(store: Store, scorer: str) -> None:
    """Follow a library manifest of version 1, which named segments, by one that does not.

    What it said of them is noted beside them first. Safe to repeat, to race and to be killed in.

    Raises:
        StateError: the manifest is damaged.

    """
    while (library := read_library(store, scorer)).old_segments:
        _note_old_segments(store, scorer, library)
        put_library(store, scorer, library, library.files)


def read_markers(store: Store, run: str) -> list[Marker]:
    """Return what was compacted of a run; a damaged marker says nothing, which loses nothing."""
    found = []
    for _, name in iterate_numbered(store, f"{run}/compacted", ".json"):
        try:
            document = read_json(store, name)
            found.append(
                Marker(
                    scorer_id=document["scorer_id"],
                    identity=document["library_id"],
                    number=document["library"],
                    segments=tuple(document["segments"]),
                    ignored=tuple(document["ignored"]),
                )
            )
        except (StateError, FileNotFoundError, KeyError, TypeError):
            continue
    return found


def put_scores(store: Store, scorer: str, path: Path) -> LibraryFile:
    """Put a file of sorted scores beside the library; no manifest names it yet.

    Raises:
        StateError: a damaged file has its name.

    """
    digest = sha256_of_file(path)
    # A library may gather thousands of files: 8 digits would be too few to tell them apart.
    name = f"library/{scorer}/scores-{digest[:16]}.parquet"
    size, rows = path.stat().st_size, _count_rows(path)
    if store.put_file_if_absent(name, path) is Put.OTHER:
        raise StateError(f"{store.location}/{name}: damaged: remove it, run again")
    return LibraryFile(name, digest, size, rows)


def _count_rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _list_fresh(store: Store, scorer: str, run: str, library: Library, *, again: bool) -> list[str]:
    """Return the segments that no marker of this very library names."""
    known: set[str] = set()
    for marker in read_markers(store, run):
        if (marker.scorer_id, marker.identity) == (scorer, library.identity):
            known.update(marker.segments if again else marker.segments + marker.ignored)
    return [name for name in list_segments(store, run) if name not in known]


def _write_run(
    store: Store, plan_id: str, fresh: list[str], folder: Path
) -> tuple[Path | None, tuple[str, ...], tuple[str, ...]]:
    """Write one sorted file of all shards that have fresh segments; return it and the segments.

    A shard is read as a whole: which score of a pair was the first, its older segments say.
    """
    taken: set[str] = set()
    ignored: set[str] = set()

    def load() -> Iterator[pa.Table]:
        for shard in sorted({name.rpartition("/seg/")[0] for name in fresh}):
            loaded = load_segments(store, shard, plan_id)
            taken.update(loaded.segments)
            ignored.update(loaded.torn)
            scored = loaded.pairs.filter(pc.is_valid(loaded.pairs.column("score")))
            yield scored.select(arrow_schema("library").names)

    paths = []
    for number, scores in enumerate(_gather(load())):
        path = folder / f"sorted-{number:05d}.parquet"
        write_scores(path, iter([sort_scores(scores)]))
        paths.append(path)
    chosen = [name for name in fresh if name in taken]
    skipped = [name for name in fresh if name in ignored]
    return _merge_paths(paths, folder), tuple(chosen), tuple(skipped)


def _gather(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables of about ``SORT_ROWS`` rows, made of whole ones."""
    held: list[pa.Table] = []
    for table in tables:
        if table.num_rows:
            held.append(table)
        if sum(one.num_rows for one in held) >= SORT_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _merge_paths(paths: list[Path], folder: Path) -> Path | None:
    """Merge local files to one, some at a time; return it, ``None`` where there was none."""
    turn = 0
    while len(paths) > 1:
        target = folder / f"merged-{turn:05d}.parquet"
        some, paths = paths[:MERGED_AT_ONCE], paths[MERGED_AT_ONCE:]
        merge_sorted(some, target)
        for path in some:
            path.unlink()
        paths.append(target)
        turn += 1
    return paths[0] if paths else None


def _add_file(store: Store, scorer: str, file: LibraryFile | None) -> Library:
    """Create a manifest that names the file too; nobody else's file is left out."""
    while True:
        library = read_library(store, scorer)
        if library.number and (file is None or file.name in {f.name for f in library.files}):
            return library
        _note_old_segments(store, scorer, library)
        files = library.files if file is None else (*library.files, file)
        created = put_library(store, scorer, library, files)
        if created is not None:
            return created


def _merge_small(store: Store, scorer: str, folder: Path) -> None:
    while True:
        library = read_library(store, scorer)
        chosen = choose_merge([file.rows for file in library.files])[:MERGED_AT_ONCE]
        if not chosen:
            return
        _merge(store, scorer, library, [library.files[index] for index in chosen], folder)


def _merge(
    store: Store, scorer: str, library: Library, chosen: Iterable[LibraryFile], folder: Path
) -> None:
    """Replace some files by one; if another process has replaced any of them, change nothing.

    Files that were added meanwhile stay: the manifest is made anew, not the file.
    """
    old = tuple(chosen)
    part = Library(library.number, old, library.identity)
    path = folder / "merged.parquet"
    merge_sorted(fetch_library(store, part), path)
    merged = put_scores(store, scorer, path)
    while True:
        library = read_library(store, scorer)
        if not set(old) <= set(library.files):
            break
        kept = [file for file in library.files if file not in old and file.name != merged.name]
        if put_library(store, scorer, library, [*kept, merged]) is not None:
            _make_sure(store, scorer, merged, path)
            break
    path.unlink()


def _make_sure(store: Store, scorer: str, file: LibraryFile, path: Path) -> None:
    """Put a file again that went after it was put: an older one of its name may be garbage."""
    if not store.exists(file.name):
        put_scores(store, scorer, path)


def _put_marker(store: Store, run: str, marker: Marker) -> None:
    document = {
        "scorer_id": marker.scorer_id,
        "library_id": marker.identity,
        "library": marker.number,
        "segments": sorted(marker.segments),
        "ignored": sorted(marker.ignored),
    }
    data = seal_json(document)
    numbers = [number for number, _ in iterate_numbered(store, f"{run}/compacted", ".json")]
    number = max(numbers, default=0) + 1
    while store.put_if_absent(f"{run}/compacted/{number:08d}.json", data) is Put.OTHER:
        number += 1


def _note_old_segments(store: Store, scorer: str, library: Library) -> None:
    """Put beside the segments what a manifest of version 1 said of them."""
    runs: dict[str, list[str]] = {}
    for name in library.old_segments:
        run = name.rpartition("/seg/")[0].rpartition("/")[0]
        runs.setdefault(run, []).append(name)
    for run, segments in runs.items():
        marker = Marker(scorer, library.identity, library.number, tuple(segments), ())
        if marker.segments and not _is_noted(store, run, marker):
            _put_marker(store, run, marker)


def _is_noted(store: Store, run: str, marker: Marker) -> bool:
    noted = {
        name
        for found in read_markers(store, run)
        if (found.scorer_id, found.identity) == (marker.scorer_id, marker.identity)
        for name in found.segments
    }
    return set(marker.segments) <= noted
