"""What a run did to the rankings, without judgements: how much moved, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from rerank_jobs.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

__all__ = ["OVERLAP_CUTOFF", "Movement", "describe_movement", "measure_movement"]

OVERLAP_CUTOFF = 10


@dataclass(frozen=True, slots=True)
class Movement:
    """Change between the first-stage order and the final order.

    Shares and means are over groups with two candidates or more (``groups_ranked`` of ``groups``);
    they are 0, the overlap 1, where there is none. ``top_1_changed`` and ``reordered`` are shares
    of groups. ``mean_abs_delta`` is in positions, over documents. ``overlap_at_10`` is the mean
    share of the first ten before that are among the first ten after. ``documents_failed`` moved
    because they were refused, not because a score said so.
    """

    groups: int
    groups_ranked: int
    documents: int
    documents_failed: int
    top_1_changed: float
    reordered: float
    mean_abs_delta: float
    overlap_at_10: float


# First-stage ranks may have gaps (rejected rows, logged positions), so positions are counted anew.
# A mean of fractions depends on the order of adding in its last digits: it is rounded.
_SQL = """
WITH positions AS (
    SELECT {group} AS grp,
           {status} = 'failed' AS failed,
           row_number() OVER (PARTITION BY {group} ORDER BY {before}) AS before,
           row_number() OVER (PARTITION BY {group} ORDER BY {after}) AS after
    FROM scored
), by_group AS (
    SELECT count(*) AS n,
           count(*) FILTER (failed) AS failed,
           bool_or(before = 1 AND after <> 1) AS top_changed,
           bool_or(before <> after) AS reordered,
           sum(abs(before - after)) AS moved,
           count(*) FILTER (before <= {cutoff} AND after <= {cutoff})
               / least(count(*), {cutoff}) AS overlap
    FROM positions GROUP BY grp
)
SELECT count(*),
       count(*) FILTER (n > 1),
       coalesce(sum(n), 0)::BIGINT,
       coalesce(sum(failed), 0)::BIGINT,
       coalesce(avg(top_changed::INT) FILTER (n > 1), 0)::DOUBLE,
       coalesce(avg(reordered::INT) FILTER (n > 1), 0)::DOUBLE,
       coalesce(sum(moved) FILTER (n > 1) / sum(n) FILTER (n > 1), 0)::DOUBLE,
       round(coalesce(avg(overlap) FILTER (n > 1), 1), 6)::DOUBLE
FROM by_group
"""


def measure_movement(
    scored: pa.Table | pa.RecordBatchReader | ds.Dataset,
    *,
    group: str = "query_id",
    before_rank: str = "rerank_first_stage_rank",
    after_rank: str = "rerank_rank",
    status: str = "rerank_status",
) -> Movement:
    """Measure the movement of a table in long form (a row per document); any row order will do.

    Only the four named columns are read, and DuckDB spills what does not fit into memory. Null in
    ``status`` counts as not failed.

    Raises:
        InputError: a named column is missing.
    """
    names = {"group": group, "before": before_rank, "after": after_rank, "status": status}
    missing = [name for name in names.values() if name not in scored.schema.names]
    if missing:
        raise InputError(f"the scored table has no column {', '.join(missing)}")
    quoted = {key: '"' + name.replace('"', '""') + '"' for key, name in names.items()}
    with duckdb.connect() as connection:
        connection.register("scored", scored)
        (row,) = connection.execute(_SQL.format(cutoff=OVERLAP_CUTOFF, **quoted)).fetchall()
    return Movement(*row)


def describe_movement(movement: Movement) -> str:
    """Say in one line how far the run changed the order."""
    line = (
        f"The first result changed in {movement.top_1_changed:.0%} of {movement.groups_ranked:,}"
        f" queries; a document moved {movement.mean_abs_delta:.1f} places on average;"
        f" {movement.overlap_at_10:.0%} of the first ten stayed there."
    )
    if movement.documents_failed:
        line += f" {movement.documents_failed:,} documents were refused and moved for that."
    return line
