"""The demo's candidate table and judgements, made from Python's own standard library.

The task: given the first sentence of a docstring, find the object that it describes. The sentence
is taken out of the object's document, so the rest of the docstring has to answer.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.errors import InputError
from rerank_jobs.report.bm25 import Bm25, words_of
from rerank_jobs.report.docstrings import Documented, read_standard_library

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DOCUMENT_FIELDS", "DemoTable", "build_demo", "choose_queries"]

DOCUMENT_FIELDS = ("title", "signature", "module", "kind", "text", "attributes")
"""The columns that make up a document, the most important first."""

_QUERY_WORDS = range(5, 26)
# Shorter documents say too little without their first sentence for anyone to find them.
_LEAST_DOCUMENT_WORDS = 20

_CANDIDATE_FIELDS: list[pa.Field[Any]] = [
    pa.field("query_id", pa.string(), nullable=False),
    pa.field("query", pa.string(), nullable=False),
    pa.field("doc_id", pa.string(), nullable=False),
    pa.field("title", pa.string()),
    pa.field("signature", pa.string()),
    pa.field("module", pa.string()),
    pa.field("kind", pa.string()),
    pa.field("text", pa.string()),
    pa.field("attributes", pa.map_(pa.string(), pa.string())),
    pa.field("first_stage_score", pa.float64()),
    pa.field("first_stage_rank", pa.int32()),
]
_CANDIDATES_SCHEMA = pa.schema(_CANDIDATE_FIELDS)
_QRELS_FIELDS: list[pa.Field[Any]] = [
    pa.field("query_id", pa.string(), nullable=False),
    pa.field("doc_id", pa.string(), nullable=False),
    pa.field("relevance", pa.int32(), nullable=False),
]
_QRELS_SCHEMA = pa.schema(_QRELS_FIELDS)


@dataclass(frozen=True, slots=True)
class DemoTable:
    """Where the demo's files are and what they hold.

    ``recall`` is the share of queries whose answer is among their candidates: no reranker can find
    the others. ``documents`` counts the objects that the first stage searched.
    """

    candidates: Path
    qrels: Path
    queries: int
    rows: int
    documents: int
    recall: float
    python_version: str


def build_demo(folder: Path, *, queries: int = 400, candidates: int = 50, key: str) -> DemoTable:
    """Write ``<folder>/candidates/ds=<key>/part-0.parquet`` (long layout) and ``qrels.parquet``.

    Each query has the ``candidates`` best documents of a BM25 first stage, ranks 1..n. A query's
    id is the ``doc_id`` of its one right answer, which may be missing from its candidates: first
    stages do miss. The same Python installation and libraries write the same bytes.

    Raises:
        InputError: the standard library has no sources, or fewer than ``queries`` usable sentences.
    """
    objects = read_standard_library()
    chosen = choose_queries(objects, queries)
    index = Bm25(words_of(_searchable(one)) for one in objects)
    rows: list[dict[str, Any]] = []
    hits = 0
    for query in chosen:
        best = index.best(words_of(query.sentence), candidates)
        for rank, (at, score) in enumerate(best, start=1):
            rows.append(_row(query, objects[at], score, rank))
            hits += objects[at].name == query.name
    table = DemoTable(
        candidates=folder / "candidates" / f"ds={key}" / "part-0.parquet",
        qrels=folder / "qrels.parquet",
        queries=len(chosen),
        rows=len(rows),
        documents=len(objects),
        recall=hits / len(chosen),
        python_version=platform.python_version(),
    )
    answers = [{"query_id": one.name, "doc_id": one.name, "relevance": 1} for one in chosen]
    _write(rows, _CANDIDATES_SCHEMA, table.candidates, table.python_version)
    _write(answers, _QRELS_SCHEMA, table.qrels, table.python_version)
    return table


def choose_queries(objects: list[Documented], count: int) -> list[Documented]:
    """Choose ``count`` objects whose first sentence makes a query, sorted by name.

    A query has 5 to 25 words, begins with a letter, belongs to one object alone and does not occur
    again in that object's own document, which has 20 words or more. The choice follows a digest of
    the name, so it is spread over all modules and does not depend on what else is installed.

    Raises:
        InputError: fewer than ``count`` objects qualify.
    """
    uses = Counter(_plain(one.sentence) for one in objects)
    usable = [one for one in objects if uses[_plain(one.sentence)] == 1 and _makes_a_query(one)]
    if not 0 < count <= len(usable):
        raise InputError(
            f"{count} demo queries asked for, but this Python's standard library has"
            f" {len(usable)} usable sentences: ask for 1 to {len(usable)}"
        )
    usable.sort(key=lambda one: hashlib.sha256(one.name.encode()).digest())
    return sorted(usable[:count], key=lambda one: one.name)


def _makes_a_query(one: Documented) -> bool:
    return (
        len(one.sentence.split()) in _QUERY_WORDS
        and one.sentence[0].isalpha()
        and len(one.rest.split()) >= _LEAST_DOCUMENT_WORDS
        and _plain(one.sentence) not in _plain(one.rest)
    )


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".!?")


def _searchable(one: Documented) -> str:
    values = [value for _, value in one.attributes]
    return " ".join([one.name, one.kind, one.signature, one.rest, *values])


def _row(query: Documented, document: Documented, score: float, rank: int) -> dict[str, Any]:
    return {
        "query_id": query.name,
        "query": query.sentence,
        "doc_id": document.name,
        "title": document.name.removeprefix(f"{document.module}."),
        "signature": document.signature,
        "module": document.module,
        "kind": document.kind,
        "text": document.rest or None,
        "attributes": document.attributes,
        "first_stage_score": round(score, 6),
        "first_stage_rank": rank,
    }


def _write(rows: list[dict[str, Any]], schema: pa.Schema, path: Path, version: str) -> None:
    """Write the file whole or not at all, under a schema that names the Python version."""
    schema = schema.with_metadata({"python_version": version})
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), draft, compression="zstd")
    draft.replace(path)
