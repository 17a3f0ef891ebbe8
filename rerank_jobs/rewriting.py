"""Rewriting: a generation's files and manifest without what is erased."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb

from rerank_jobs.config import Columns, Job
from rerank_jobs.plan.frozen import run_folder
from rerank_jobs.publish.documents import open_documents
from rerank_jobs.publish.generations import Generation, Part
from rerank_jobs.publish.publisher import Roots
from rerank_jobs.publish.ranking import RANKING, count_ranking
from rerank_jobs.publish.trimming import count_reasons, trim_part, trim_rejected
from rerank_jobs.sightings import Sighting, fetch_published, read_policies
from rerank_jobs.storage import Put, Store, scratch_folder, sha256_of_file
from rerank_jobs.tables.matching import Wanted, count_matches, find_matches, scan_part

__all__ = ["rewrite_generation"]


def rewrite_generation(
    job: Job,
    roots: Roots,
    generations: Sequence[Generation],
    sighting: Sighting,
    wanted: Wanted,
) -> dict[str, Any]:
    """Write the current generation's files without what is wanted; return their manifest.

    The files lie under state; nothing is published. The manifest keeps its plan, so that the same
    input counts as published, and says how much was erased and never what. What its promise counts
    in and out is less by the same rows and candidates: ``verify`` finds it whole.

    Raises:
        StateError: a published file is damaged, and so is its copy.

    """
    current = generations[-1]
    policy = read_policies(job, [current])
    change = _Change(roots.state, current, dict(current.document["promise"]))
    with scratch_folder(roots.state.location) as folder:
        for part in current.parts:
            path = fetch_published(roots.state, roots.output, part)
            if part.name in sighting.published:
                change.trim_part(part, path, policy[part.name], wanted, folder)
            else:
                change.parts.append(change.keep(part, path))
        for part in current.rejected:
            path = fetch_published(roots.state, roots.rejected, part)
            if part.name in sighting.published:
                change.trim_rejected(part, path, policy[part.name], wanted, folder)
            else:
                change.rejected.append(change.keep(part, path))
    document = {
        **current.document,
        "parts": [asdict(part) for part in change.parts],
        "rejected": [asdict(part) for part in change.rejected],
        "promise": change.promise,
        "erased": change.erased,
    }
    document.pop("restores", None)
    return {**document, **_count_again(job, roots.state, current, change.parts)}


class _Change:
    """A generation's files and promise while they are rewritten."""

    def __init__(self, state: Store, current: Generation, promise: dict[str, Any]) -> None:
        self.state = state
        self.current = current
        self.promise = promise
        self.erased = {"rows": 0, "documents": 0, "rejected": 0}
        self.parts: list[Part] = []
        self.rejected: list[Part] = []

    def trim_part(
        self, part: Part, path: Path, policy: dict[str, Any], wanted: Wanted, folder: Path
    ) -> None:
        """Rewrite one part; one that is left without rows goes."""
        columns, target = Columns(**policy["columns"]), folder / "part.parquet"
        with duckdb.connect() as con:
            con.execute(f"SET temp_directory = '{str(folder).replace(chr(39), chr(39) * 2)}'")
            find_matches(con, scan_part(path), columns, wanted)
            rows, documents = count_matches(con, path, columns)
            left = trim_part(con, path, columns, policy["on_failed"], folder, target)
        self._subtract(rows_in=rows, rows_out=rows)
        self._subtract(candidates_in=documents, candidates_out=documents)
        self.erased["rows"] += rows
        self.erased["documents"] += documents
        if left:
            self.parts.append(self._put(part, target, left))

    def trim_rejected(
        self, part: Part, path: Path, policy: dict[str, Any], wanted: Wanted, folder: Path
    ) -> None:
        """Rewrite a rejected table; one that is left without rows goes."""
        columns, target = Columns(**policy["columns"]), folder / "rejected.parquet"
        with duckdb.connect() as con:
            find_matches(con, scan_part(path), columns, wanted)
            reasons = count_reasons(con, path, columns)
            left = trim_rejected(con, path, folder, target)
        counts = self.promise["reasons"] = dict(self.promise["reasons"])
        for reason, what, rows, candidates in reasons:
            counts[reason] -= rows
            if not counts[reason]:
                del counts[reason]
            whole = rows if what == "row" or columns.candidates is None else 0
            self._subtract(rows_in=whole, rows_rejected=whole)
            self._subtract(candidates_in=candidates, candidates_rejected=candidates)
            self.erased["rejected"] += rows
        if left:
            self.rejected.append(self._put(part, target, left))

    def keep(self, part: Part, path: Path) -> Part:
        """Return a part as it is, with a copy under state to publish it from."""
        if part.source is not None and self.state.exists(part.source):
            return part
        return self._put(part, path, part.rows)

    def _subtract(self, **counts: int) -> None:
        for name, count in counts.items():
            self.promise[name] -= count

    def _put(self, part: Part, path: Path, rows: int) -> Part:
        digest = sha256_of_file(path)
        stem = part.name.removesuffix(".parquet").rpartition("-")[0]
        source = f"{self._folder(part)}-{digest[:8]}.parquet"
        if self.state.put_file_if_absent(source, path) is Put.OTHER:
            self.state.delete(source)  # its name is its digest: what stands there is damaged
            self.state.put_file_if_absent(source, path)
        size = path.stat().st_size
        return Part(f"{stem}-{digest[:8]}.parquet", digest, size, rows, source)

    def _folder(self, part: Part) -> str:
        """Return how the part's copy under state begins."""
        if part.source is not None:
            return part.source.removesuffix(".parquet").rpartition("-")[0]
        partition, identity = str(self.current.document["partition"]), self.current.plan_id
        if part in self.current.rejected:
            return f"{partition}/run/{identity}/rejected"
        number = re.search(r"part-(\d+)-[0-9a-f]+\.parquet$", part.name)
        return f"{run_folder(partition, identity, int(number[1]) if number else 0)}/part"


def _count_again(
    job: Job, state: Store, current: Generation, parts: Sequence[Part]
) -> dict[str, Any]:
    """Return statuses, and how the ranking moved if that was known, of the files as they are."""
    statuses: dict[str, int] = {}
    ranking = dict.fromkeys(RANKING, 0)
    policy = read_policies(job, [current])
    with duckdb.connect() as con:
        if parts:
            columns = Columns(**policy[current.parts[0].name]["columns"])
            table = job.model_copy(
                update={"input": job.input.model_copy(update={"columns": columns})}
            )
            open_documents(con, table, [state.fetch(part.source or "") for part in parts])
            rows = con.execute("SELECT rerank_status, count(*) FROM documents GROUP BY 1")
            statuses = {str(name): int(count) for name, count in rows.fetchall()}
            ranking = count_ranking(con, "documents")
    figures: dict[str, Any] = {
        "statuses": {name: statuses.get(name, 0) for name in current.document["statuses"]}
    }
    return {**figures, "ranking": ranking} if "ranking" in current.document else figures
