"""Snapshots: one generation for a reader, whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.errors import JobError, SnapshotGone, StateError
from rerank_jobs.publish.generations import Generation, Part
from rerank_jobs.publish.orders import Roots
from rerank_jobs.storage import Store

__all__ = ["GENERATION_KEY", "Snapshot", "take_snapshot"]

GENERATION_KEY = b"rerank_jobs.generation"
"""Key of the schema metadata of ``to_table`` that holds the generation's number."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One published generation, as its manifest names it; what it names never changes.

    ``paths`` are its files, local paths or URLs, in the order of shards; ``rows`` their rows
    together; ``manifest`` the whole manifest.
    """

    partition: str
    generation: int
    plan_id: str
    created_at: str
    rows: int
    paths: tuple[str, ...]
    manifest: dict[str, Any] = field(repr=False)
    _store: Store = field(repr=False, compare=False)
    _parts: tuple[Part, ...] = field(repr=False, compare=False)

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows of this generation, or the given columns of them, in published order.

        The schema's metadata names the generation under ``rerank_jobs.generation``. A generation
        without rows has no file and gives a table without columns.

        Raises:
            SnapshotGone: a file is gone, because a newer generation was published meanwhile.
            StateError: a file's size or rows differ from the manifest, or it is damaged.
            JobError: there is no such column.

        """
        tables = [self._read(part, columns) for part in self._parts]
        table = pa.concat_tables(tables) if tables else pa.table({})
        number = str(self.generation).encode()
        return table.replace_schema_metadata(
            {**(table.schema.metadata or {}), GENERATION_KEY: number}
        )

    def _read(self, part: Part, columns: Sequence[str] | None) -> pa.Table:
        where = f"{self._store.location}/{part.name}"
        damaged = StateError(f"{where}: damaged: rerank-jobs publish puts it back")
        try:
            path = self._store.fetch(part.name)
            if path.stat().st_size != part.size:
                raise damaged
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                _check_columns(where, file.schema_arrow.names, columns)
                table = file.read(columns=None if columns is None else list(columns))
        except FileNotFoundError:
            raise SnapshotGone(
                f"{where}: gone: a newer generation than {self.generation} was published"
                " meanwhile: read the current one again"
            ) from None
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise damaged from None  # a page whose checksum does not fit is an OSError too
        if table.num_rows != part.rows:
            raise damaged
        return table


def _check_columns(where: str, names: list[str], columns: Sequence[str] | None) -> None:
    unknown = sorted(set(columns or ()) - set(names))
    if unknown:
        raise JobError(f"{where}: no column {', '.join(unknown)}; there are {', '.join(names)}")


def take_snapshot(roots: Roots, generation: Generation, *, retained: bool = False) -> Snapshot:
    """Return a generation as a snapshot of the output, or ``retained`` of its copies under state.

    Raises:
        StateError: ``retained``, and no copies were kept.

    """
    store, parts = roots.output, generation.parts
    if retained:
        store = roots.state
        parts = tuple(
            Part(part.source, part.sha256, part.size, part.rows)
            for part in generation.parts
            if part.source is not None and store.exists(part.source)
        )
        if len(parts) < len(generation.parts):
            raise StateError(
                f"{store.location}: generation {generation.number} is not retained: its rows are"
                " gone (publish.keep_generations says how many generations are kept)"
            )
    return Snapshot(
        partition=str(generation.document["partition"]),
        generation=generation.number,
        plan_id=generation.plan_id,
        created_at=str(generation.document["created_at"]),
        rows=sum(part.rows for part in parts),
        paths=tuple(f"{store.location}/{part.name}" for part in parts),
        manifest=generation.document,
        _store=store,
        _parts=parts,
    )
