"""Judgements from every format, with ids as strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.errors import InputError
from rerank_jobs.report.qrels import DOCUMENT_NAMES, read_qrels

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    {"query_id": "007", "document_id": "a", "relevance": 2},
    {"query_id": "8", "document_id": "b", "relevance": 0},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.csv", "query_id,doc_id,relevance\n007,a,2\n8,b,0\n"),
        ("q.csv", "\ufeffextra,query_id,docno,relevance\nx,007,a,2\ny,8,b,0\n"),
        ("q.tsv", "query-id\tcorpus-id\tscore\n007\ta\t2\n8\tb\t0\n"),
        ("q.tsv", "007\t0\ta\t2\n8\t0\tb\t-2\n"),
        ("qrels.txt", "007 0 a 2\n\n8 Q0 b 0\n"),
        ("qrels", "007 0  a 2\n8 0 b -1\n"),
    ],
)
def test_text_formats_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    """CSV, TSV with a header and TREC text give the same rows, and ids keep leading zeros."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_qrels(path).to_pylist() == ROWS


@pytest.mark.parametrize("document", DOCUMENT_NAMES)
@pytest.mark.parametrize("id_type", [pa.int64(), pa.int32(), pa.string(), pa.large_string()])
def test_parquet_ids_of_any_type_become_strings(
    tmp_path: Path, document: str, id_type: pa.DataType
) -> None:
    """Integer and string ids of a Parquet file read as the same strings, under each known name."""
    ids = pa.array([1, 2]).cast(id_type)
    path = tmp_path / "qrels.parquet"
    pq.write_table(pa.table({"query_id": ids, document: ids, "relevance": [1.0, 0.0]}), path)
    assert read_qrels(path)["document_id"].to_pylist() == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "q.csv",
            "query_id,relevance\n1,1\n",
            "no column document_id .*it has query_id, relevance",
        ),
        ("q.csv", "q,doc_id,relevance\n1,1,1\n", "no column query_id"),
        ("q.csv", "query_id,doc_id\n1,1\n", "no column relevance"),
        ("q.csv", "query_id,doc_id,relevance\n1,a,0.5\n", "must hold whole numbers"),
        ("q.csv", "query_id,doc_id,relevance\n1,a,high\n", "must hold whole numbers"),
        ("q.csv", "query_id,doc_id,relevance\n1,a,1\n1,a,2\n", "1 documents have two grades"),
        ("q.csv", "query_id,doc_id,relevance\n1,a\n", "not readable"),
        ("q.csv", "", "is empty"),
        ("q.txt", "1 0 a\n", "line 1: 3 fields where TREC text has 4"),
        ("q.parquet", "no parquet", "not readable"),
    ],
)
def test_bad_files_are_named_with_what_is_wrong(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    """Each defect is one typed error that names the file."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_qrels(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path without a file is a typed error."""
    with pytest.raises(InputError, match=r"none\.parquet does not exist"):
        read_qrels(tmp_path / "none.parquet")


def test_null_ids_are_refused(tmp_path: Path) -> None:
    """A null in an id column is an error that names the column."""
    path = tmp_path / "qrels.parquet"
    pq.write_table(pa.table({"qid": ["1", None], "docid": ["a", "b"], "rel": [1, 1]}), path)
    with pytest.raises(InputError, match="column qid has nulls"):
        read_qrels(path)


def test_repeated_equal_judgements_count_once(tmp_path: Path) -> None:
    """The same judgement twice is one row."""
    path = tmp_path / "qrels.csv"
    path.write_text("query_id,doc_id,relevance\n1,a,1\n1,a,1\n")
    assert read_qrels(path).num_rows == 1
