"""Small hand-made tables and one demo table for the whole session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from rerank_jobs.report.demo_table import DemoTable, build_demo
from rerank_jobs.report.docstrings import Documented, read_standard_library
from rerank_jobs.report.qrels import QRELS_SCHEMA
from rerank_jobs.report.rankings import RANKINGS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Orders = dict[str, tuple[str, str]]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoTable:
    """Return the demo table at its default size."""
    return build_demo(tmp_path_factory.mktemp("demo"), key="2026-11-22")


@pytest.fixture(scope="session")
def library() -> list[Documented]:
    """Return the documented objects of this Python's standard library."""
    return read_standard_library()


@pytest.fixture
def rankings_of() -> Callable[..., pa.Table]:
    """Return a function from {query: (order before, order after)} to rankings.

    Documents have one-letter names, so an order is a string.
    """

    def build(orders: Orders, slices: dict[str, str] | None = None) -> pa.Table:
        rows = [
            {
                "group": query,
                "query_id": query,
                "document_id": document,
                "before_rank": at,
                "after_rank": after.index(document) + 1,
                "status": "scored",
                "slice": (slices or {}).get(query),
            }
            for query, (before, after) in orders.items()
            for at, document in enumerate(before, start=1)
        ]
        return pa.Table.from_pylist(rows, schema=RANKINGS_SCHEMA)

    return build


@pytest.fixture
def qrels_of() -> Callable[[Sequence[tuple[str, str, int]]], pa.Table]:
    """Return a function from (query, document, grade) triples to judgements."""

    def build(triples: Sequence[tuple[str, str, int]]) -> pa.Table:
        columns = list(zip(*triples, strict=True))
        return pa.table([pa.array(column) for column in columns], schema=QRELS_SCHEMA)

    return build
