"""The demo table: right answers, no leaks, the same bytes twice, and its BM25 first stage."""

from __future__ import annotations

import sys
from collections import Counter
from math import log
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from rerank_jobs.errors import InputError
from rerank_jobs.report.bm25 import Bm25, words_of
from rerank_jobs.report.demo_table import build_demo, choose_queries
from rerank_jobs.report.docstrings import read_standard_library, split_first_sentence

if TYPE_CHECKING:
    from pathlib import Path

    from rerank_jobs.report.demo_table import DemoTable
    from rerank_jobs.report.docstrings import Documented


def test_the_table_has_the_size_it_says(demo: DemoTable) -> None:
    """400 queries with 50 candidates each, ranks 1..50, scores falling, one answer a query."""
    table = pq.read_table(demo.candidates, partitioning=None)
    assert (table.num_rows, demo.rows, demo.queries) == (20_000, 20_000, 400)
    scores: dict[str, list[tuple[int, float]]] = {}
    for row in table.select(["query_id", "first_stage_rank", "first_stage_score"]).to_pylist():
        scores.setdefault(row["query_id"], []).append(
            (row["first_stage_rank"], row["first_stage_score"])
        )
    assert len(scores) == 400
    for places in scores.values():
        assert [rank for rank, _ in places] == list(range(1, 51))
        assert [score for _, score in places] == sorted((s for _, s in places), reverse=True)
    assert Counter(pq.read_table(demo.qrels)["query_id"].to_pylist()) == Counter(list(scores))


def test_every_answer_is_the_object_of_its_sentence(
    demo: DemoTable, library: list[Documented]
) -> None:
    """The judged document of each query is the one object whose docstring begins with it."""
    objects = {one.name: one for one in library}
    answers = {row["query_id"]: row["doc_id"] for row in pq.read_table(demo.qrels).to_pylist()}
    owners: dict[str, list[str]] = {}
    for one in library:
        owners.setdefault(one.sentence, []).append(one.name)
    queries = set(_rows(demo, "query_id", "query"))
    assert len(queries) == 400
    for query_id, query in queries:
        assert owners[query] == [answers[query_id]]
        assert objects[answers[query_id]].sentence == query


def test_no_query_stands_in_its_own_document(demo: DemoTable) -> None:
    """No field of a query's right answer holds the query's sentence, however it is wrapped."""
    fields = ("query_id", "doc_id", "query", "title", "signature", "text", "attributes")
    found = 0
    for query_id, document_id, query, *document in _rows(demo, *fields):
        if query_id == document_id:
            found += 1
            assert " ".join(query.split()) not in " ".join(str(document).split())
            assert query.rstrip(".").lower() not in " ".join(str(document[2]).lower().split())
    assert found == round(demo.recall * 400)


def test_recall_leaves_room_and_work(demo: DemoTable) -> None:
    """The first stage finds most answers among 50, and not all: it is a task, not a formality."""
    assert 0.8 < demo.recall < 0.97


def test_the_same_python_writes_the_same_bytes(demo: DemoTable, tmp_path: Path) -> None:
    """Building again under another folder gives identical files."""
    again = build_demo(tmp_path, key="2026-11-22")
    assert again.candidates.read_bytes() == demo.candidates.read_bytes()
    assert again.qrels.read_bytes() == demo.qrels.read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "part-0.parquet",
        "qrels.parquet",
    ]


def test_the_schema_names_the_python_version(demo: DemoTable) -> None:
    """Both files carry the version whose docstrings they hold."""
    version = ".".join(map(str, sys.version_info[:3]))
    for path in (demo.candidates, demo.qrels):
        assert pq.read_schema(path).metadata[b"python_version"].decode().startswith(version)


def test_more_queries_than_there_are_is_an_error(library: list[Documented]) -> None:
    """Asking for too many names how many there are."""
    with pytest.raises(InputError, match=r"ask for 1 to \d+"):
        choose_queries(library, 1_000_000)


def test_a_smaller_choice_is_part_of_a_larger_one(library: list[Documented]) -> None:
    """The choice follows a digest of the name, so that sizes nest."""
    small, large = ({one.name for one in choose_queries(library, n)} for n in (50, 200))
    assert small < large


def test_sources_are_parsed_and_never_run(tmp_path: Path) -> None:
    """A module that would raise is read, private and foreign ones are not, names are qualified."""
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_text(
        '"""Encode and decode. More of it."""\n'
        "raise SystemExit\n"
        "class Encoder(Base):\n"
        '    """An encoder.\n\n    With a rest."""\n'
        "    @staticmethod\n"
        "    async def encode(one, *, two=2) -> str:\n"
        '        """Encode one."""\n'
        "    def _private(self):\n"
        '        """Hidden."""\n'
        "def encode():\n"
        '    """First definition."""\n'
        "def encode():\n"
        '    """Second definition."""\n'
    )
    (tmp_path / "json" / "_hidden.py").write_text('"""Hidden."""')
    (tmp_path / "not_a_standard_module.py").write_text('"""Foreign."""')
    objects = {one.name: one for one in read_standard_library(tmp_path)}
    assert list(objects) == ["json", "json.Encoder", "json.Encoder.encode", "json.encode"]
    method = objects["json.Encoder.encode"]
    assert (method.kind, method.signature) == ("method", "encode(one, *, two=2)")
    assert dict(method.attributes) == {
        "async": "yes",
        "class": "Encoder",
        "decorators": "staticmethod",
        "returns": "str",
    }
    assert (objects["json"].sentence, objects["json"].rest) == ("Encode and decode.", "More of it.")
    assert dict(objects["json.Encoder"].attributes) == {"bases": "Base", "members": "encode"}
    assert objects["json.encode"].sentence == "First definition."


def test_an_interpreter_without_sources_is_an_error(tmp_path: Path) -> None:
    """An empty standard library is told in one line."""
    with pytest.raises(InputError, match="no sources of Python's standard library"):
        read_standard_library(tmp_path)


@pytest.mark.parametrize(
    ("docstring", "sentence", "rest"),
    [
        ("One. Two.", "One.", "Two."),
        ("One\nline.\n\nTwo.", "One line.", "Two."),
        ("No stop\n\n    Two", "No stop", "Two"),
        ("Use it, e.g. here, i.e. now. Two.", "Use it, e.g. here, i.e. now.", "Two."),
        ("Since 3.11 it works! Two", "Since 3.11 it works!", "Two"),
        ("Only one.", "Only one.", ""),
    ],
)
def test_first_sentences(docstring: str, sentence: str, rest: str) -> None:
    """The first sentence ends at its stop or its paragraph, and nothing else is lost."""
    assert split_first_sentence(docstring) == (sentence, rest)


def test_words_split_names_into_parts() -> None:
    """camelCase, snake_case, acronyms and numbers come apart, lower-cased."""
    assert words_of("HTTPServer.do_GET(readLine2)") == [
        "http", "server", "do", "get", "read", "line", "2",
    ]  # fmt: skip


def test_bm25_agrees_with_its_formula() -> None:
    """Every score equals the textbook sum, computed here document by document."""
    documents = ["a b b c", "a a d", "c", "e f g h i j"]
    words = [document.split() for document in documents]
    mean = sum(map(len, words)) / len(words)
    index = Bm25(words, k1=1.5, b=0.6)
    for query in ("a", "b c", "a a e", "unknown", ""):
        expected = []
        for document in words:
            total = 0.0
            for word in query.split():
                n = sum(word in other for other in words)
                tf = document.count(word)
                idf = log(1 + (len(words) - n + 0.5) / (n + 0.5))
                total += idf * tf * 2.5 / (tf + 1.5 * (0.4 + 0.6 * len(document) / mean))
            expected.append(total)
        assert list(index.scores(query.split())) == pytest.approx(expected)


def test_bm25_breaks_ties_in_document_order() -> None:
    """Equal scores keep the order of the documents, and the limit cuts."""
    index = Bm25([["x"], ["a"], ["a"], ["a", "a"]])
    assert [at for at, _ in index.best(["a"], 3)][1:] == [1, 2]
    assert [at for at, _ in index.best(["nothing"], 2)] == [0, 1]


def _rows(demo: DemoTable, *columns: str) -> list[tuple[str, ...]]:
    table = pq.read_table(demo.candidates, partitioning=None, columns=list(columns))
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
