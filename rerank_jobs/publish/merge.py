"""Merging: scores and work files become the rows of one part; SQL over narrow values only.

Rank is a total order within a group: score descending, then first-stage order; failed documents
behind the scored ones (``demote``), or the whole group as it came (``keep_first_stage``). Nothing
of the clock, the attempt, the cost or the host enters a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from rerank_jobs.config import Job
from rerank_jobs.contracts import arrow_schema
from rerank_jobs.errors import StateError
from rerank_jobs.publish.rows import arrange_rows
from rerank_jobs.tables.mapped import MappedRows

__all__ = ["Merged", "count_statuses", "merge_shard", "output_schema"]


@dataclass(frozen=True, slots=True)
class Merged:
    """A shard's documents by status."""

    scored: int
    reused: int
    single: int
    failed: int


def output_schema(input_schema: pa.Schema, job: Job) -> pa.Schema:
    """Return the published schema: our columns behind the input's, or the struct's fields."""
    ours = list(arrow_schema("scored"))
    lists = job.input.columns.candidates
    if lists is None:
        return pa.schema([*input_schema, *ours])
    index = input_schema.get_field_index(lists)
    field = input_schema.field(index)
    struct = field.type.value_type
    inner = pa.struct([*(struct.field(i) for i in range(struct.num_fields)), *ours])
    return input_schema.set(index, field.with_type(pa.list_(inner)))


def merge_shard(
    con: duckdb.DuckDBPyConnection,
    job: Job,
    schema: pa.Schema,
    work: Mapping[str, object],
    rows: MappedRows,
    *,
    block: int = 20_480,
) -> Iterator[pa.Table]:
    """Yield the part's rows, sorted by group and rank, at most ``block`` at a time.

    ``work`` holds Arrow tables or datasets: ``candidates``, ``passages`` (without texts, beside
    their schedule) and ``ledger`` (one row per sealed pair); ``rows`` the input's rows.

    Raises:
        StateError: a planned pair has neither a score nor an error.

    """
    for name, value in work.items():
        con.register(name, value)
    con.execute(_DOCUMENTS)
    missing = con.execute(
        "SELECT count(*) FROM documents WHERE score IS NULL AND error IS NULL"
    ).fetchone()
    if missing and missing[0]:
        raise StateError(f"{missing[0]} documents have no score yet: the shard is not finished")
    con.execute(_ranked_sql(job.failures.on_failed))
    yield from arrange_rows(con, job, schema, rows, block)


def count_statuses(con: duckdb.DuckDBPyConnection) -> Merged:
    """Count the documents of the shard that was just merged."""
    rows = con.execute("SELECT rerank_status, count(*) FROM ranked GROUP BY 1").fetchall()
    counts = {str(status): int(count) for status, count in rows}
    return Merged(
        **{name: counts.get(name, 0) for name in ("scored", "reused", "single", "failed")}
    )


# A document is scored when all its passages are; its best window is the first of the highest score
# among the planned ones. A passage that was sent in pieces counts as so many windows.
_DOCUMENTS = """CREATE OR REPLACE TEMP TABLE documents AS
    SELECT query_key, doc_key,
        CASE WHEN count(score) = count(*) THEN max(score) END AS score,
        CASE WHEN count(score) < count(*) THEN min(error) END AS error,
        max(windows) + sum(more) AS windows,
        CASE WHEN max(windows) > 1 THEN arg_max(w, (score, -w)) END AS best_window,
        bool_or(truncated) AS truncated, bool_and(reused) AS reused,
        arg_max(model, (score, -w)) AS model, arg_max(provider, (score, -w)) AS provider
    FROM (SELECT p.query_key, p.doc_key, p.window AS w, p.windows, p.truncated,
            coalesce(CASE WHEN l.score IS NULL THEN p.parts ELSE l.parts END, 1) - 1 AS more,
            coalesce(l.score, p.score) AS score, coalesce(p.error, l.error) AS error,
            coalesce(l.carried, p.score IS NOT NULL) AS reused,
            CASE WHEN l.score IS NULL THEN p.model ELSE l.model END AS model,
            CASE WHEN l.score IS NULL THEN p.provider ELSE l.provider END AS provider
        FROM passages AS p LEFT JOIN ledger AS l
            ON p.query_key = l.query_key AND p.passage_key = l.passage_key)
    GROUP BY query_key, doc_key"""


def _ranked_sql(on_failed: str) -> str:
    order = "failed, score DESC NULLS LAST, fs_rank"
    if on_failed == "keep_first_stage":
        order = "CASE WHEN group_failed THEN fs_rank END NULLS FIRST, " + order
    return f"""CREATE OR REPLACE TEMP TABLE ranked AS SELECT ref, row, grp,
            score AS rerank_score, rank::INTEGER AS rerank_rank, fs_rank AS rerank_first_stage_rank,
            (fs_rank - rank)::INTEGER AS rerank_delta, status AS rerank_status,
            CASE WHEN failed THEN error END AS rerank_error, windows AS rerank_windows,
            CASE WHEN NOT failed THEN best_window END AS rerank_best_window,
            truncated AS rerank_truncated,
            CASE WHEN NOT failed THEN model END AS rerank_model,
            CASE WHEN NOT failed THEN provider END AS rerank_provider
        FROM (SELECT *, row_number() OVER (PARTITION BY grp ORDER BY {order}) AS rank FROM (
            SELECT *, bool_or(failed) OVER (PARTITION BY grp) AS group_failed FROM (
                SELECT c.ref, c.row, c.grp, c.fs_rank, d.best_window, d.model, d.provider, d.error,
                    CASE WHEN c.n > 1 THEN d.score END AS score,
                    c.n > 1 AND d.score IS NULL AS failed,
                    CASE WHEN c.n = 1 THEN 'single' WHEN d.score IS NULL THEN 'failed'
                        WHEN d.reused THEN 'reused' ELSE 'scored' END AS status,
                    CASE WHEN c.n > 1 THEN d.windows ELSE 0 END::INTEGER AS windows,
                    coalesce(c.n > 1 AND d.truncated, false) AS truncated
                FROM candidates AS c LEFT JOIN (SELECT * FROM documents) AS d
                    ON c.query_key = d.query_key AND c.doc_key = d.doc_key AND c.n > 1)))"""
