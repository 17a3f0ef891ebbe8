"""How a ranking moved: the figures that guards, manifests and ``verify`` share.

A group counts where there was something to decide: with two candidates or more for its first
document, with two scored documents or more for equal scores. Groups of two generations are matched
by what names them in their layout; of a name that stands for several groups (a query in a log
without ids) any first document of the earlier generation will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rerank_jobs.storage import scratch_folder
from rerank_jobs.tables.sources import quote_text

__all__ = ["RANKING", "add_rankings", "compare_firsts", "count_ranking", "read_firsts"]

RANKING = ("groups", "top1_changed", "scored_groups", "all_equal")
"""Groups with a first document to choose, and where it is another than the first stage's; groups
with two scored documents or more, and where all their scores are equal."""


def count_ranking(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Count ``RANKING`` over a table of documents: ``grp`` and our published columns."""
    found = con.execute(f"""SELECT count(*) FILTER (n >= 2),
            count(*) FILTER (n >= 2 AND first <> 1), count(*) FILTER (scored >= 2),
            count(*) FILTER (scored >= 2 AND least = most)
        FROM (SELECT count(*) AS n, count(rerank_score) AS scored,
            min(rerank_first_stage_rank) FILTER (rerank_rank = 1) AS first,
            min(rerank_score) AS least, max(rerank_score) AS most FROM {table} GROUP BY grp)
        """).fetchone()
    return dict(zip(RANKING, map(int, found or (0, 0, 0, 0)), strict=True))


def add_rankings(rankings: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up figures of several shards."""
    total = dict.fromkeys(RANKING, 0)
    for one in rankings:
        for name in RANKING:
            total[name] += one[name]
    return total


def read_firsts(paths: Iterable[Path], layout: str, columns: Mapping[str, Any]) -> pa.Table:
    """Return ``key`` and ``first``: what names each group, and its first document's id, as text.

    ``columns`` is ``input.columns`` of the job that published the files. Only these columns of
    them are read. Groups without a name or without a document are left out.
    """
    names = ("query_id",) if layout == "long" else ("search_id", "query_id", "query")
    key = next(columns[name] for name in names if columns.get(name))
    lists, document = columns.get("candidates"), columns["document_id"]
    tables = [_EMPTY]
    for path in paths:
        with pq.ParquetFile(path) as file:
            if lists is None:
                tables.extend(_read_long(file, key, document))
            else:
                tables.extend(_read_lists(file, key, lists, document))
    table = pa.concat_tables(tables)
    return table.filter(pc.is_valid(table.column("key")))


_EMPTY = pa.schema({"key": pa.string(), "first": pa.string()}).empty_table()


def _read_long(file: pq.ParquetFile, key: str, document: str) -> Iterator[pa.Table]:
    for batch in file.iter_batches(columns=[key, document, "rerank_rank"]):
        first = batch.filter(pc.equal(batch.column("rerank_rank"), pa.scalar(1)))
        yield _as_text(first.column(key), first.column(document))


def _read_lists(file: pq.ParquetFile, key: str, lists: str, document: str) -> Iterator[pa.Table]:
    # Lists stand in the order of their ranks. Of their structs only the one field is read.
    for batch in file.iter_batches(columns=[key, f"{lists}.list.element.{document}"]):
        filled = batch.filter(pc.greater(pc.list_value_length(batch.column(lists)), pa.scalar(0)))
        firsts = pc.struct_field(pc.list_element(filled.column(lists), 0), document)
        yield _as_text(filled.column(key), firsts)


def _as_text(key: Any, first: Any) -> pa.Table:
    columns = [pc.cast(column, pa.string()) for column in (key, first)]
    return pa.table(columns, names=["key", "first"])


def compare_firsts(now: pa.Table, before: pa.Table, location: str, memory: int) -> tuple[int, int]:
    """Return how many groups of ``now`` have a name of ``before``, and how many another first.

    Both as ``read_firsts`` gives them. Spills to a scratch folder at ``location`` beyond
    ``memory`` bytes.
    """
    with scratch_folder(location) as folder, duckdb.connect() as con:
        con.execute(f"SET memory_limit = '{max(128, memory * 40 // 100 // 1_000_000)}MB'")
        con.execute(f"SET temp_directory = {quote_text(str(folder / 'spill'))}")
        con.register("now", now)
        con.register("before", before)
        found = con.execute("""SELECT coalesce(sum(groups), 0),
                coalesce(sum(groups) FILTER (NOT same), 0)
            FROM (SELECT any_value(n.groups) AS groups, bool_or(n.first = b.first) AS same
                FROM (SELECT key, first, count(*) AS groups FROM now GROUP BY ALL) AS n
                JOIN (SELECT DISTINCT key, first FROM before) AS b ON n.key = b.key
                GROUP BY n.key, n.first)""").fetchone()
    both, changed = found or (0, 0)
    return int(both), int(changed)
