"""Sightings: in which files of a partition a query or a document stands, and under which keys.

Keys of what is published are made again from its text: the rows' groups are planned once more in
scratch space, so that documents are rendered and cut into windows exactly as when they were sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from rerank_jobs.config import ALL, Columns, Context, Job
from rerank_jobs.errors import StateError
from rerank_jobs.ledger.masking import PairKeys
from rerank_jobs.plan.build import KINDS, Draft, build_plan
from rerank_jobs.plan.counting import ESTIMATE
from rerank_jobs.plan.frozen import plan_name
from rerank_jobs.plan.identity import compute_keys
from rerank_jobs.plan.tokenizer import make_counter, read_tokenizer
from rerank_jobs.publish.generations import Generation, Part, read_generations
from rerank_jobs.publish.publisher import Roots
from rerank_jobs.publish.retention import is_whole
from rerank_jobs.storage import Store, read_json, scratch_folder
from rerank_jobs.tables.matching import (
    POSITION,
    Wanted,
    count_matches,
    find_matches,
    scan_part,
)
from rerank_jobs.tables.sources import ELEMENT_MASK, ROW, open_input, quote

__all__ = ["Sighting", "fetch_published", "find_sightings", "read_policies"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What of a partition holds what is wanted.

    ``files`` are names under state; ``published`` those of the current generation, as it names
    them. ``plans`` are frozen plans that hold it. ``rows`` and ``documents`` are those of the
    current table, ``rejected`` those of its rejected table.
    """

    partition: str
    files: frozenset[str]
    published: frozenset[str]
    plans: frozenset[str]
    rows: int
    documents: int
    rejected: int
    keys: PairKeys = field(repr=False)

    def __bool__(self) -> bool:
        """Say whether it was seen anywhere."""
        return bool(self.files or self.published or self.plans)


@dataclass
class _Search:
    """One pass over a partition's files, and what it has seen so far."""

    job: Job
    wanted: Wanted
    salt: bytes
    scratch: Path
    keys: PairKeys = field(default_factory=PairKeys)
    groups: int = 0
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def look_at_part(self, path: Path, policy: Mapping[str, Any]) -> tuple[int, int]:
        """Return (rows, documents) of a published file that are wanted; note their keys."""
        columns = Columns(**policy["columns"])
        with duckdb.connect() as con:
            if not find_matches(con, scan_part(path), columns, self.wanted):
                return 0, 0
            queries: list[Any] = con.execute(f"""SELECT DISTINCT s.{quote(columns.query)}::VARCHAR
                FROM ({scan_part(path)}) AS s JOIN matched AS m ON s.{POSITION} = m.position
                WHERE m.by_query AND s.{quote(columns.query)} IS NOT NULL""").fetchall()
            keys = compute_keys(self.salt, [query for (query,) in queries])
            self.keys = self.keys.plus(PairKeys(frozenset(keys)))
            if "rerank_rank" in _names(path, columns):
                self._look_at_groups(con, path, columns, policy)
            return count_matches(con, path, columns)

    def _look_at_groups(
        self,
        con: duckdb.DuckDBPyConnection,
        path: Path,
        columns: Columns,
        policy: Mapping[str, Any],
    ) -> None:
        """Plan the groups of wanted documents once more, and note the keys of these documents."""
        chosen = _choose_groups(con, path, columns)
        if len(chosen) == 0:
            return
        folder = self.scratch / f"groups-{self.groups:05d}"
        self.groups += 1
        (folder / "work").mkdir(parents=True)
        with (
            pq.ParquetFile(path) as file,
            pq.ParquetWriter(folder / "groups.parquet", file.schema_arrow) as writer,
        ):
            start = 0
            for batch in file.iter_batches():
                inside = chosen[(chosen >= start) & (chosen < start + batch.num_rows)] - start
                writer.write_batch(batch.take(pa.array(inside)))
                start += batch.num_rows
        job = _make_job(self.job, folder / "groups.parquet", policy)
        draft = _draft(job, folder / "work", self.salt)
        for shard in range(len(draft.prices)):
            paths = {kind: draft.work_file(kind, shard) for kind in KINDS}
            self.look_at_work(paths, columns)

    def look_at_work(self, paths: Mapping[str, Path], columns: Columns) -> int:
        """Return how much of a shard's work files is wanted; note the keys."""
        with duckdb.connect() as con:
            for kind in ("rows", "candidates", "passages"):
                con.register(f"{kind}_file", ds.dataset(paths[kind], format="ipc"))
            source = f"SELECT *, {ROW} AS {POSITION} FROM rows_file"
            count = find_matches(con, source, columns, self.wanted)
            if count:
                con.execute(f"""CREATE TEMP TABLE wanted_docs AS SELECT DISTINCT c.doc_key
                    FROM candidates_file AS c JOIN matched AS m ON c.row = m.position
                    AND (m.element IS NULL OR (c.ref & {ELEMENT_MASK}) = m.element)
                    WHERE NOT m.by_query""")
                queries = _read_keys(
                    con,
                    """SELECT DISTINCT c.query_key FROM candidates_file AS c
                    JOIN matched AS m ON c.row = m.position WHERE m.by_query""",
                )
                passages = _read_keys(
                    con,
                    """SELECT doc_key FROM wanted_docs UNION SELECT p.passage_key
                    FROM passages_file AS p WHERE p.doc_key IN (SELECT doc_key FROM wanted_docs)""",
                )
                self.keys = self.keys.plus(PairKeys(queries, passages))
            return count


def find_sightings(job: Job, roots: Roots, partition: str, wanted: Wanted, salt: bytes) -> Sighting:
    """Search all files of a partition for what is wanted; nothing is changed.

    A file under state that cannot be read counts as holding it, unless a generation names it.

    Raises:
        StateError: a published file is damaged, or of other columns than its manifest says.
        JobError: the job's layout has no query ids, and one is wanted.

    """
    state = roots.state
    generations = read_generations(state, partition)
    current = generations[-1] if generations else None
    policies = read_policies(job, generations)
    with scratch_folder(state.location) as scratch:
        search = _Search(job, wanted, salt, scratch)
        plans = frozenset(_find_plans(search, state, partition))
        files = set()
        for entry in state.entries(f"{partition}/run"):
            base = entry.name.rpartition("/")[2]
            if base.startswith(("part-", "rejected-")):
                policy = policies.get(entry.name)
                if _holds(search, state, entry.name, policy or _policy(job), named=bool(policy)):
                    files.add(entry.name)
            elif base.startswith("work.") and _is_loose(state, partition, entry.name):
                files.add(entry.name)
        published, counts = _look_at_current(search, roots, current, policies)
    return Sighting(partition, frozenset(files), published, plans, *counts, keys=search.keys)


def fetch_published(state: Store, store: Store, part: Part) -> Path:
    """Return a published file's bytes, from where it is published or from its copy under state.

    Raises:
        StateError: both are gone or damaged.

    """
    for where, name in ((store, part.name), (state, part.source)):
        if name is not None and is_whole(where, name, part):
            return where.fetch(name)
    raise StateError(
        f"{store.location}/{part.name}: gone or damaged, and so is its copy under state: remove it"
        " and run the job again, then erase again"
    )


def read_policies(job: Job, generations: Sequence[Generation]) -> dict[str, dict[str, Any]]:
    """Return the policy that each published file, and its copy under state, was made by."""
    found = {}
    for one in generations:
        for part in (*one.parts, *one.rejected):
            policy = {**_policy(job), **one.document["policy"]}
            found[part.name] = policy
            if part.source is not None:
                found[part.source] = policy
    return found


def _policy(job: Job) -> dict[str, Any]:
    return dict(job.policy())


def _find_plans(search: _Search, state: Store, partition: str) -> Iterator[str]:
    """Yield frozen plans whose work files, or results, hold what is wanted, or cannot be read."""
    for entry in state.entries(f"{partition}/plan"):
        identity = entry.name.rpartition("/")[2].removesuffix(".json")
        document = read_json(state, plan_name(partition, identity))
        columns = Columns(**document["policy"]["columns"])
        policy = {**_policy(search.job), **document["policy"]}
        found = False
        for shard in document["shards"]:
            names = {kind: file["name"] for kind, file in shard["files"].items()}
            if all(state.exists(name) for name in names.values()):
                paths = {kind: state.fetch(name) for kind, name in names.items()}
                found = bool(search.look_at_work(paths, columns)) or found
        for one in state.entries(f"{partition}/run/{identity}"):
            if one.name.rpartition("/")[2].startswith(("part-", "rejected-")):
                found = _holds(search, state, one.name, policy, named=False) or found
        if found:
            yield identity


def _holds(
    search: _Search, store: Store, name: str, policy: Mapping[str, Any], *, named: bool
) -> bool:
    try:
        found = search.seen[name] = search.look_at_part(store.fetch(name), policy)
    except (duckdb.Error, pa.ArrowException, OSError):
        if named:
            raise StateError(
                f"{store.location}/{name}: cannot be read: put it back by rerank-jobs publish, or"
                " remove it, and erase again"
            ) from None
        return True
    return any(found)


def _is_loose(state: Store, partition: str, name: str) -> bool:
    """Say whether a work file belongs to no plan: what it holds is not worth reading."""
    return not state.exists(plan_name(partition, name.split("/")[2]))


def _look_at_current(
    search: _Search,
    roots: Roots,
    current: Generation | None,
    policies: Mapping[str, Mapping[str, Any]],
) -> tuple[frozenset[str], tuple[int, int, int]]:
    """Return names of current files that hold it, and (rows, documents, rejected rows)."""
    names, rows, documents, rejected = set(), 0, 0, 0
    for part in current.parts if current else ():
        found = search.seen.get(part.source or "")
        if found is None:
            path = fetch_published(roots.state, roots.output, part)
            found = search.look_at_part(path, policies[part.name])
        if any(found):
            names.add(part.name)
            rows, documents = rows + found[0], documents + found[1]
    for part in current.rejected if current else ():
        with duckdb.connect() as con:
            path = fetch_published(roots.state, roots.rejected, part)
            columns = Columns(**policies[part.name]["columns"])
            if find_matches(con, scan_part(path), columns, search.wanted):
                names.add(part.name)
                count = con.execute("SELECT count(DISTINCT position) FROM matched").fetchone()
                rejected += int(count[0]) if count else 0
    return frozenset(names), (rows, documents, rejected)


def _names(path: Path, columns: Columns) -> list[str]:
    """Return the names of a file's columns, or of its list's fields."""
    schema = pq.read_schema(path)
    if columns.candidates is None:
        return schema.names
    struct = schema.field(columns.candidates).type.value_type
    return [struct.field(i).name for i in range(struct.num_fields)]


def _choose_groups(con: duckdb.DuckDBPyConnection, path: Path, columns: Columns) -> Any:
    """Return the positions of all rows of groups that hold a wanted document."""
    if columns.candidates is not None:
        query = "SELECT DISTINCT position FROM matched WHERE NOT by_query ORDER BY position"
    else:
        group = f"s.{quote(columns.query_id or '')}"
        query = f"""WITH s AS ({scan_part(path)}) SELECT s.{POSITION} FROM s WHERE {group} IN
            (SELECT {group} FROM s JOIN matched AS m ON s.{POSITION} = m.position
            WHERE NOT m.by_query) ORDER BY 1"""
    return np.asarray([row for (row,) in con.execute(query).fetchall()], dtype=np.int64)


def _make_job(job: Job, path: Path, policy: Mapping[str, Any]) -> Job:
    """Return the job as it was when the policy held, over the table at ``path``."""
    columns = Columns(**policy["columns"])
    table = {"path": str(path), "columns": columns, "layout": policy["layout"]}
    context = Context(**policy["context"]) if "context" in policy else job.context
    context = context.model_copy(update={"tokenizer": job.context.tokenizer})
    return job.model_copy(
        update={
            "input": job.input.model_copy(update={**table, "on_bad_rows": "reject"}),
            "output": job.output.model_copy(update={"replace": True}),
            "context": context,
        }
    )


def _draft(job: Job, folder: Path, salt: bytes) -> Draft:
    table = open_input(job, ALL)
    tokenizer = read_tokenizer(job)
    counter = make_counter(tokenizer) if tokenizer else ESTIMATE
    return build_plan(job, table, salt=salt, library=None, folder=folder, counter=counter)


def _read_keys(con: duckdb.DuckDBPyConnection, query: str) -> frozenset[bytes]:
    return frozenset(bytes(key) for (key,) in con.execute(query).fetchall())
