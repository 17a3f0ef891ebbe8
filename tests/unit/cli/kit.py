"""What the command line's tests share: small jobs and tables with canaries, calls, servers."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rerank_jobs.cli import main

QUERY_CANARY = "zebracanary"
DOCUMENT_CANARY = "okapicanary"
KEY_CANARY = "sk-or-v1-kiwicanary"
CANARIES = (QUERY_CANARY, DOCUMENT_CANARY, KEY_CANARY)

JOB: dict[str, Any] = {
    "name": "shop",
    "input": {
        "path": "candidates.parquet",
        "layout": "long",
        "columns": {
            "query_id": "query_id",
            "query": "query",
            "document_id": "doc_id",
            "document": "text",
            "first_stage_rank": "rank",
        },
    },
    "output": {"path": "out"},
    "endpoint": {"url": "embedded"},
}

LISTS: dict[str, Any] = {
    "layout": "nested",
    "columns": {"first_stage_rank": "rank", "candidates": "hits"},
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Return standard output as the one JSON object that it must be."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value

    def assert_says(self, code: int, *words: str) -> None:
        """Hold it to the promise for errors: the code, one line, its words, no traceback."""
        assert self.code == code, self
        assert self.err.startswith("rerank-jobs: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err, (word, self.err)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Run a command in this process; texts and keys must not show in anything that it prints."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    for canary in CANARIES:
        assert canary not in captured.out + captured.err
    return Outcome(code, captured.out, captured.err)


def call_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run a command with ``--json`` that must succeed; return its object."""
    outcome = call(capsys, *arguments, "--json")
    assert outcome.code == 0, outcome.err
    return outcome.json()


def make_rows(queries: int = 3, candidates: int = 4) -> list[Row]:
    """Return rows of layout long; every query and document carries a canary and is its own."""
    return [
        {
            "query_id": f"q{q}",
            "query": f"{QUERY_CANARY} how to fold paper {q}",
            "doc_id": f"d{d}",
            "text": f"{DOCUMENT_CANARY} paper crane number {d} of shelf {q}, fold {d * 7}",
            "rank": d + 1,
            "note": f"n{q}-{d}",
        }
        for q in range(queries)
        for d in range(candidates)
    ]


def nest(rows: Sequence[Row]) -> list[Row]:
    """Return rows of layout long as rows of layout nested, ``hits`` holding the candidates."""
    nested: dict[str, Row] = {}
    for row in rows:
        fields = {name: row[name] for name in ("doc_id", "text", "rank", "note")}
        outer = {"query_id": row["query_id"], "query": row["query"], "hits": []}
        nested.setdefault(row["query_id"], outer)["hits"].append(fields)
    return list(nested.values())


def write_table(path: Path, rows: Sequence[Row] | pa.Table) -> Path:
    """Write rows as a Parquet file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    pq.write_table(table, path)
    return path


def write_job(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write ``JOB`` with ``changes`` merged into it, part by part; ``None`` removes a key."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(merge(JOB, changes or {})), encoding="utf-8")
    return path


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` merged into it."""
    merged = copy.deepcopy(dict(base))
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def set_up(
    folder: Path, changes: Mapping[str, Any] | None = None, rows: Sequence[Row] | None = None
) -> Path:
    """Write a table and its job; return the job file."""
    write_table(folder / "candidates.parquet", make_rows() if rows is None else rows)
    return write_job(folder, changes)


def read_table(folder: Path) -> list[Row]:
    """Return the rows of every Parquet file directly in ``folder``, in the order of their names."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.parquet")):
        rows += pq.ParquetFile(path).read().to_pylist()
    return rows


@contextlib.contextmanager
def serve(*arguments: str) -> Iterator[str]:
    """Run ``rerank-jobs serve`` on a free port; yield its URL; end it by its pid."""
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--port", "0", *arguments]
    with run_server(command) as url:
        yield url


@contextlib.contextmanager
def run_server(command: Sequence[str]) -> Iterator[str]:
    """Run a server that prints ``listening on URL``; yield the URL; end it by its pid."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on ")
            yield line.removeprefix("listening on ").strip()
        finally:
            process.terminate()


def read_stats(url: str) -> dict[str, int]:
    """Return what the server behind ``url`` has answered so far."""
    stats: dict[str, int] = httpx.get(url.replace("/api/v1", "/stats")).json()
    return stats
