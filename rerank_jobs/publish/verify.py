"""Verification: what stands in the output against what its manifest says.

It trusts nothing that publishing computed: bytes are hashed again, rows counted again, ranks and
their order checked from the published columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.config import Job
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.publish.documents import open_documents
from rerank_jobs.publish.generations import Generation, Part
from rerank_jobs.publish.orders import Roots
from rerank_jobs.publish.ranking import RANKING, count_ranking
from rerank_jobs.storage import Store, sha256_of_file

__all__ = ["Verification", "verify_generation"]


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read again, and every way in which it differs from the manifest."""

    generation: int
    files: int
    rows: int
    documents: int
    rejected: int
    problems: tuple[str, ...]


def verify_generation(job: Job, roots: Roots, generation: Generation) -> Verification:
    """Read a published generation again and compare it with its manifest."""
    problems = [
        *_check_files(roots.output, generation.parts),
        *_check_files(roots.rejected, generation.rejected),
        *_check_strangers(job, roots.output, generation),
    ]
    paths = [] if problems else [roots.output.fetch(part.name) for part in generation.parts]
    rows = sum(part.rows for part in generation.parts)
    rejected = sum(part.rows for part in generation.rejected)
    documents: int | None = None
    if paths:
        problems += _check_schema(job, roots.output, generation.parts)
    if paths and not problems:
        with duckdb.connect() as con:
            documents = open_documents(con, job, paths)
            problems += _check_ranks(con)
            problems += _check_statuses(con, generation)
            problems += _check_ranking(con, generation)
    promise = generation.document["promise"]
    problems += _check_conservation(promise, rows, documents)
    return Verification(
        generation.number,
        len(generation.parts) + len(generation.rejected),
        rows,
        documents or 0,
        rejected,
        tuple(problems),
    )


def _check_files(store: Store, parts: tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        where = f"{store.location}/{part.name}"
        if not store.exists(part.name):
            yield f"{where}: missing"
            continue
        path = store.fetch(part.name)
        if path.stat().st_size != part.size or sha256_of_file(path) != part.sha256:
            yield f"{where}: its bytes differ from the manifest's SHA-256"
        elif pq.read_metadata(path).num_rows != part.rows:
            yield f"{where}: holds other than {part.rows:,} rows"


def _check_strangers(job: Job, output: Store, generation: Generation) -> Iterator[str]:
    """Parquet files in the partition's folder that the manifest does not name: globs read them."""
    folder = job.partition_folder(str(generation.document["partition"]))
    named = {part.name for part in generation.parts}
    for entry in output.entries(folder):
        direct = entry.name.rpartition("/")[0] == folder
        if direct and entry.name.endswith(".parquet") and entry.name not in named:
            yield f"{output.location}/{entry.name}: not a part of generation {generation.number}"


def _check_schema(job: Job, store: Store, parts: tuple[Part, ...]) -> Iterator[str]:
    wanted = list(arrow_schema("scored"))
    for part in parts:
        schema = pq.read_schema(store.fetch(part.name))
        fields: list[pa.Field[Any]] = list(schema)
        if job.input.columns.candidates is not None:
            struct = schema.field(job.input.columns.candidates).type.value_type
            fields = [struct.field(i) for i in range(struct.num_fields)]
        have = {field.name: field.type for field in fields}
        for field in wanted:
            if have.get(field.name) != field.type:
                where = f"{store.location}/{part.name}"
                yield f"{where}: column {field.name} is {have.get(field.name)}, not {field.type}"


def _check_ranks(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    # failures.on_failed: keep_first_stage leaves a whole group as it came.
    con.execute("""CREATE TEMP TABLE kept AS SELECT grp FROM documents GROUP BY grp
        HAVING bool_or(rerank_status = 'failed') AND bool_and(rerank_rank = rerank_first_stage_rank)
        """)
    checks = {
        "ranks are not 1..n": """SELECT count(*) FROM (SELECT grp FROM documents GROUP BY grp
            HAVING min(rerank_rank) <> 1 OR max(rerank_rank) <> count(*)
                OR count(DISTINCT rerank_rank) <> count(*))""",
        "first-stage ranks are not 1..n": """SELECT count(*) FROM (
            SELECT grp FROM documents GROUP BY grp HAVING min(rerank_first_stage_rank) <> 1
                OR max(rerank_first_stage_rank) <> count(*)
                OR count(DISTINCT rerank_first_stage_rank) <> count(*))""",
        "list positions differ from ranks": """SELECT count(DISTINCT grp) FROM documents
            WHERE position <> rerank_rank""",
        "scores do not fall with rank": """SELECT count(DISTINCT grp) FROM (SELECT grp,
            rerank_score > lag(rerank_score) OVER (PARTITION BY grp ORDER BY rerank_rank) AS rises
            FROM documents ANTI JOIN kept USING (grp)) WHERE rises""",
        "a failed document stands before a scored one": """SELECT count(*) FROM (
            SELECT grp FROM documents ANTI JOIN kept USING (grp) GROUP BY grp
            HAVING min(rerank_rank) FILTER (rerank_status = 'failed')
                < max(rerank_rank) FILTER (rerank_status <> 'failed'))""",
        "equal scores are not in first-stage order": """SELECT count(DISTINCT grp) FROM (SELECT grp,
            rerank_score IS NOT DISTINCT FROM lag(rerank_score) OVER w AND
            rerank_first_stage_rank < lag(rerank_first_stage_rank) OVER w AS wrong FROM documents
            WINDOW w AS (PARTITION BY grp ORDER BY rerank_rank)) WHERE wrong""",
        "rerank_delta is not first-stage rank minus rank": """SELECT count(DISTINCT grp)
            FROM documents WHERE rerank_delta <> rerank_first_stage_rank - rerank_rank""",
        "a scored document has no finite score, or a failed one has one": """SELECT
            count(DISTINCT grp) FROM documents WHERE (rerank_status IN ('scored', 'reused'))
            <> (rerank_score IS NOT NULL AND isfinite(rerank_score))""",
    }
    for name, query in checks.items():
        found = con.execute(query).fetchone()
        if found and found[0]:
            yield f"{name} in {found[0]:,} groups"


def _check_statuses(con: duckdb.DuckDBPyConnection, generation: Generation) -> Iterator[str]:
    rows = con.execute("SELECT rerank_status, count(*) FROM documents GROUP BY 1").fetchall()
    found = {str(status): int(count) for status, count in rows}
    said = {name: count for name, count in generation.document["statuses"].items() if count}
    if found != said:
        yield f"documents by status are {found}, the manifest says {said}"


def _check_ranking(con: duckdb.DuckDBPyConnection, generation: Generation) -> Iterator[str]:
    said = generation.document.get("ranking")
    found = count_ranking(con, "documents")
    if said is not None and found != {name: said[name] for name in RANKING}:
        yield f"the ranking moved by {found}, the manifest says {said}"


def _check_conservation(promise: dict[str, int], rows: int, documents: int | None) -> Iterator[str]:
    if rows != promise["rows_out"]:
        yield f"{rows:,} rows published, {promise['rows_out']:,} planned"
    if documents is not None and documents != promise["candidates_out"]:
        yield f"{documents:,} documents published, {promise['candidates_out']:,} planned"
    parts = ("candidates_out", "candidates_rejected", "candidates_cut")
    if promise["candidates_in"] != sum(promise[name] for name in parts):
        yield "candidates in are not candidates out + rejected + cut"
