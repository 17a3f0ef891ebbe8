"""Clustering: from rows in any order to groups, keys, shards and reasons, inside DuckDB.

``cluster`` leaves these tables in the connection (``ref`` names a candidate, ``row`` a table row):

    row_keys(row, grp, query_key, shard)             rows that are not rejected
    rejected(row, ref, reason)                       ref is null where a whole list row is rejected
    queries(query_key, query)                        each distinct query text once
    ranked(ref, row, grp, shard, query_key, doc_key, size, fs_rank, n)
                                                     candidates that stay, in first-stage order 1..n
    rendered(doc_key, text)                          only where documents are rendered

Only narrow columns are sorted or joined here; texts are read where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from rerank_jobs.config import Columns, Job
from rerank_jobs.errors import InputError
from rerank_jobs.plan.identity import key_sql, route_sql
from rerank_jobs.tables.rendering import render_documents
from rerank_jobs.tables.sources import ELEMENT_BITS, ROW, InputTable, quote

__all__ = ["VISIBLE", "Counts", "choose_batch_rows", "cluster", "document_is_text", "stream"]

REF = "_rj_ref"
"""Internal column of the view ``candidates``. Columns of the user's are always written with their
table's name: theirs may have any name, ``row`` or ``ref`` too."""

VECTOR_ROWS = 2048
STREAM_ROWS = 10 * VECTOR_ROWS
STREAM_BYTES = 32 << 20

VISIBLE = r"[^\s\x0b\x1c-\x1f\x85\x{feff}\pZ]"
"""Regular expression (RE2) of a character that shows: a text without any is blank."""

_VISIBLE = f"'{VISIBLE}'"


@dataclass(frozen=True, slots=True)
class Counts:
    """How a table's rows and candidates divide; the two equations of conservation hold.

    ``rows_in = rows_out + rows_rejected`` (+ ``cut`` in layout long, where a row is a candidate);
    ``candidates_in = candidates_out + candidates_rejected + cut``. ``document_bytes`` is the mean
    size of a document's text.
    """

    rows_in: int
    rows_out: int
    rows_rejected: int
    candidates_in: int
    candidates_out: int
    candidates_rejected: int
    cut: int
    groups: int
    queries: int
    document_bytes: int
    reasons: dict[str, int]


def stream(
    con: duckdb.DuckDBPyConnection, query: str, row_bytes: int = 0
) -> Iterator[pa.RecordBatch]:
    """Yield a query's rows in bounded batches (``con.sql``: ``execute`` would hold all of them)."""
    yield from con.sql(query).to_arrow_reader(choose_batch_rows(row_bytes))


def choose_batch_rows(row_bytes: int) -> int:
    """Return rows per Arrow batch: about 32 MiB, in whole vectors of the database (2,048 rows)."""
    vectors = STREAM_BYTES // max(1, row_bytes) // VECTOR_ROWS
    return int(min(STREAM_ROWS, max(1, vectors) * VECTOR_ROWS))


def document_is_text(table: InputTable, job: Job) -> bool:
    """Say whether documents are one text column, sent as it is, rather than rendered as YAML."""
    columns = job.input.columns
    if len(columns.document) != 1:
        return False
    kind = _fields(table, columns)[columns.document[0]]
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def cluster(
    con: duckdb.DuckDBPyConnection, table: InputTable, job: Job, salt: bytes, shards: int
) -> Counts:
    """Key, route, check and order every candidate of the table; see the module for the result."""
    con.execute(f"CREATE VIEW src AS {table.scan_sql()}")
    _key_rows(con, job, salt, shards)
    _key_candidates(con, table, job, salt)
    _reject_candidates(con)
    _rank_first_stage(con, job)
    return _count(con, table, job)


def _key_rows(con: duckdb.DuckDBPyConnection, job: Job, salt: bytes, shards: int) -> None:
    columns = job.input.columns
    query = f"s.{quote(columns.query)}"
    group = f"s.{quote(columns.query_id)}" if columns.query_id else "NULL"
    con.execute(f"""
        CREATE TABLE all_rows AS SELECT s.{ROW} AS row, {group} AS gid, {query} IS NULL AS no_query,
            CASE WHEN regexp_matches({query}, {_VISIBLE})
                THEN {key_sql(query, salt)} END AS query_key,
            {route_sql(query, shards)} AS shard FROM src AS s""")
    needs_id = "gid IS NULL" if columns.query_id else "false"
    con.execute(f"""
        CREATE TABLE rejected AS SELECT row, NULL::BIGINT AS ref, CASE
            WHEN no_query THEN 'null_query' WHEN query_key IS NULL THEN 'blank_query'
            WHEN {needs_id} THEN 'null_query_id' ELSE 'conflicting_query' END AS reason
        FROM all_rows WHERE query_key IS NULL OR {needs_id} OR gid IN (
            SELECT gid FROM all_rows WHERE query_key IS NOT NULL AND gid IS NOT NULL
            GROUP BY gid HAVING min(query_key) <> max(query_key))""")
    kept = "all_rows ANTI JOIN rejected USING (row)"
    if job.input.layout == "long":
        con.execute(f"CREATE TABLE groups AS SELECT gid, min(row) AS grp FROM {kept} GROUP BY gid")
        con.execute(f"""CREATE TABLE row_keys AS SELECT row, grp, query_key, shard
            FROM (SELECT * FROM {kept}) JOIN groups USING (gid)""")
        con.execute("UPDATE rejected SET ref = row")
        con.execute("DROP TABLE groups")
    else:
        con.execute(
            f"CREATE TABLE row_keys AS SELECT row, row AS grp, query_key, shard FROM {kept}"
        )
    con.execute("DROP TABLE all_rows")
    con.execute(f"""CREATE TABLE queries AS SELECT k.query_key, {query} AS query FROM src AS s JOIN
        (SELECT query_key, min(row) AS row FROM row_keys GROUP BY query_key) AS k
        ON s.{ROW} = k.row""")


def _key_candidates(
    con: duckdb.DuckDBPyConnection, table: InputTable, job: Job, salt: bytes
) -> None:
    columns = job.input.columns
    fields = _fields(table, columns)
    con.execute(f"CREATE VIEW candidates AS {_candidates_sql(columns)}")
    order = _order_columns(columns, fields)
    if document_is_text(table, job):
        text = f"c.{quote(columns.document[0])}"
        document = f"CASE WHEN regexp_matches({text}, {_VISIBLE}) THEN {key_sql(text, salt)} END"
        size = f"strlen({text})"
    else:
        document, size = _digest_sql(columns, fields), "0"
    con.execute(f"""CREATE TABLE keyed AS SELECT c.{REF} AS ref, c.{ROW} AS row,
        c.{quote(columns.document_id)} AS did, {document} AS doc_key, {size} AS size,
        {order[0]} AS fs_order, {order[1]} AS fs_score
        FROM candidates AS c SEMI JOIN row_keys AS r ON c.{ROW} = r.row""")
    if not document_is_text(table, job):
        _render(con, columns, salt, table.row_bytes)


def _digest_sql(columns: Columns, fields: dict[str, pa.DataType]) -> str:
    """Return a digest that tells equal documents before any is rendered, text by text.

    Each column is digested by itself: one JSON of all would copy long texts again and again.
    """
    digests = []
    for name in columns.document:
        plain = pa.types.is_string(fields[name]) or pa.types.is_large_string(fields[name])
        value = f"c.{quote(name)}" if plain else f"to_json(c.{quote(name)})::VARCHAR"
        digests.append(f"coalesce(sha256({value}), '-')")
    return f"unhex(sha256({' || '.join(digests)}))"


def _candidates_sql(columns: Columns) -> str:
    if columns.candidates is None:
        return f"SELECT {ROW} AS {REF}, * FROM src"
    lists = f"s.{quote(columns.candidates)}"
    number = f"({ROW} << {ELEMENT_BITS}) | (_rj_number - 1)"
    return f"""SELECT {number} AS {REF}, {ROW}, _rj_item.* FROM (SELECT s.{ROW},
        generate_subscripts({lists}, 1) AS _rj_number, unnest({lists}) AS _rj_item FROM src AS s)"""


def _order_columns(columns: Columns, fields: dict[str, pa.DataType]) -> tuple[str, str]:
    """First-stage order as (ascending, descending) SQL numbers; NaN counts as missing."""

    def number(name: str | None) -> str:
        if name is None:
            return "NULL::DOUBLE"
        value = f"c.{quote(name)}::DOUBLE"
        return (
            f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"
            if (pa.types.is_floating(fields[name]))
            else value
        )

    rank = columns.first_stage_rank
    if rank is None and columns.first_stage_score is None:
        rank = columns.position
    return number(rank), number(columns.first_stage_score)


def _render(con: duckdb.DuckDBPyConnection, columns: Columns, salt: bytes, row_bytes: int) -> None:
    """Render each distinct document once; replace raw digests by keys of the rendered text."""
    names = ", ".join(
        f"c.{quote(name)} AS {quote(f'd{i}')}" for i, name in enumerate(columns.document)
    )
    con.execute("CREATE TABLE raw(raw BLOB, text VARCHAR)")
    reader = con.cursor()
    query = f"""SELECT d.raw, {names} FROM candidates AS c JOIN
        (SELECT doc_key AS raw, min(ref) AS ref FROM keyed GROUP BY doc_key) AS d
        ON c.{REF} = d.ref"""
    for batch in stream(reader, query, row_bytes):
        documents = {name: batch.column(i + 1) for i, name in enumerate(columns.document)}
        texts = render_documents(documents)
        rendered_batch = pa.table({"raw": batch.column(0), "text": texts})
        con.register("rendered_batch", rendered_batch)
        con.execute("INSERT INTO raw SELECT raw, text FROM rendered_batch")
        con.unregister("rendered_batch")
    reader.close()
    con.execute(f"""CREATE TABLE raw_keys AS SELECT raw, text,
        CASE WHEN regexp_matches(text, {_VISIBLE}) THEN {key_sql("text", salt)} END AS doc_key
        FROM raw""")
    con.execute("""CREATE TABLE rendered AS
        SELECT doc_key, min(text) AS text FROM raw_keys
        WHERE doc_key IS NOT NULL GROUP BY doc_key""")
    con.execute("""CREATE TABLE keyed_text AS
        SELECT k.* REPLACE (r.doc_key AS doc_key, r.size AS size) FROM keyed AS k
        JOIN (SELECT raw, doc_key, strlen(text) AS size FROM raw_keys) AS r ON k.doc_key = r.raw""")
    for name in ("raw", "raw_keys", "keyed"):
        con.execute(f"DROP TABLE {name}")
    con.execute("ALTER TABLE keyed_text RENAME TO keyed")


_FIRST_STAGE = "fs_order NULLS LAST, fs_score DESC NULLS LAST, ref"


def _reject_candidates(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("""INSERT INTO rejected SELECT row, ref,
        CASE WHEN did IS NULL THEN 'null_document_id' ELSE 'blank_document' END
        FROM keyed WHERE did IS NULL OR doc_key IS NULL""")
    con.execute("""CREATE TABLE repeated AS
        SELECT grp, did, min(doc_key) <> max(doc_key) AS conflict
        FROM keyed JOIN row_keys USING (row) WHERE did IS NOT NULL AND doc_key IS NOT NULL
        GROUP BY grp, did HAVING count(*) > 1""")
    con.execute(f"""INSERT INTO rejected SELECT row, ref,
        CASE WHEN conflict THEN 'conflicting_document' ELSE 'duplicate_document' END FROM (
            SELECT k.row, k.ref, conflict, row_number() OVER (
                PARTITION BY grp, did ORDER BY {_FIRST_STAGE}) AS nth
            FROM keyed AS k JOIN row_keys USING (row) JOIN repeated USING (grp, did)
            WHERE doc_key IS NOT NULL)
        WHERE conflict OR nth > 1""")
    con.execute("DROP TABLE repeated")


def _rank_first_stage(con: duckdb.DuckDBPyConnection, job: Job) -> None:
    top_k = job.candidates.top_k or 1 << 40
    con.execute(f"""CREATE TABLE ranked AS SELECT ref, row, grp, shard, query_key, doc_key, size,
            fs_rank::INTEGER AS fs_rank, least(n, {top_k})::INTEGER AS n, fs_rank > {top_k} AS cut
        FROM (SELECT ref, row, grp, shard, query_key, doc_key, size,
            row_number() OVER (PARTITION BY grp ORDER BY {_FIRST_STAGE}) AS fs_rank,
            count(*) OVER (PARTITION BY grp) AS n
            FROM keyed AS k JOIN row_keys USING (row)
            WHERE ref NOT IN (SELECT ref FROM rejected WHERE ref IS NOT NULL))""")
    con.execute("DROP TABLE keyed")


def _count(con: duckdb.DuckDBPyConnection, table: InputTable, job: Job) -> Counts:
    def one(query: str) -> int:
        row = con.execute(query).fetchone()
        return int(row[0] or 0) if row else 0

    kept = one("SELECT count(*) FROM ranked WHERE NOT cut")
    cut = one("SELECT count(*) FROM ranked WHERE cut")
    whole_rows = one("SELECT count(*) FROM rejected WHERE ref IS NULL")
    single = one("SELECT count(*) FROM rejected WHERE ref IS NOT NULL")
    reasons = con.execute(
        "SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY reason"
    ).fetchall()
    con.execute("DELETE FROM ranked WHERE cut")
    groups = one("SELECT count(DISTINCT grp) FROM ranked")
    queries = one("SELECT count(DISTINCT query_key) FROM ranked")
    if job.input.layout == "long":
        candidates_in, rows_out, rows_rejected = table.rows, kept, single
    else:
        lists = f"s.{quote(job.input.columns.candidates or '')}"
        candidates_in = one(f"SELECT sum(len({lists})) FROM src AS s")
        longest = one(f"SELECT max(len({lists})) FROM src AS s")
        if longest > 1 << ELEMENT_BITS:
            raise InputError(
                f"{table.location}: a list of {longest:,} candidates is too long (at most"
                f" {1 << ELEMENT_BITS:,}): use layout long"
            )
        rows_out, rows_rejected = table.rows - whole_rows, whole_rows
        in_rejected_rows = one(f"""SELECT sum(len({lists})) FROM src AS s SEMI JOIN
            (SELECT row FROM rejected WHERE ref IS NULL) AS r ON s.{ROW} = r.row""")
        single += in_rejected_rows
    return Counts(
        rows_in=table.rows,
        rows_out=rows_out,
        rows_rejected=rows_rejected,
        candidates_in=candidates_in,
        candidates_out=kept,
        candidates_rejected=single,
        cut=cut,
        groups=groups,
        queries=queries,
        document_bytes=one("SELECT avg(size) FROM ranked"),
        reasons=dict(reasons),
    )


def _fields(table: InputTable, columns: Columns) -> dict[str, pa.DataType]:
    """Types of the columns, or struct fields, that candidates have."""
    if columns.candidates is None:
        return {field.name: field.type for field in table.schema}
    struct = table.schema.field(columns.candidates).type.value_type
    return {struct.field(i).name: struct.field(i).type for i in range(struct.num_fields)}
