"""Seeded jobs to be killed: small, of every shape, each with texts of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.builders import LONG_COLUMNS, WORDS, write_rows

__all__ = ["CONCURRENCY", "Case", "draw_case", "write_case"]

Row = dict[str, Any]
CONCURRENCY = 3
UNSAVED = 3


@dataclass(frozen=True, slots=True)
class Case:
    """A job file's parts, and the tables that it meets one after the other: a second generation."""

    name: str
    parts: dict[str, Any]
    tables: tuple[list[Row], ...]
    shape: str

    @property
    def at_risk(self) -> int:
        """Requests that a SIGKILL may lose: in flight, and answered but unsealed.

        A request whose reply waits for a seal still holds its place in flight.
        """
        return CONCURRENCY + UNSAVED


def draw_case(number: int, seed: int) -> Case:
    """Draw the ``number``-th job: layout, shards, windows, rejected rows, generations."""
    draw = random.Random(f"{seed}-{number}")
    layout = ("long", "nested")[number % 2]
    shards = number % 4 + 1
    windows, second = draw.random() < 0.3, draw.random() < 0.25
    rows = list(_draw_rows(draw, f"job{number}", windows=windows))
    tables = [rows]
    if second:
        tables.insert(0, [row for row in rows if row["query_id"] < "q0016"])
    if layout == "nested":
        tables = [_nest(table) for table in tables]
    parts: dict[str, Any] = {
        "name": f"job{number}",
        "input": {"path": "candidates.parquet", "columns": LONG_COLUMNS},
        "shards": {"rows_per_shard": -(-len(tables[-1]) // shards)},
        "ledger": {"max_unsaved_replies": UNSAVED},
    }
    if layout == "nested":
        columns = {**LONG_COLUMNS, "candidates": "hits"}
        parts["input"] = {"path": "candidates.parquet", "layout": "nested", "columns": columns}
    if windows:
        parts["context"] = {"tokens": 64, "overlap_tokens": 8}
    if draw.random() < 0.3:
        parts["candidates"] = {"top_k": 6}
    words = [layout, f"{shards} shards"]
    words += ["windows"] * windows + ["second generation"] * second
    return Case(f"job{number}", parts, tuple(tables), ", ".join(words))


def _draw_rows(draw: random.Random, name: str, *, windows: bool) -> Iterator[Row]:
    """Yield some 38 queries of 4 to 11 documents: some blank, repeated, conflicting or single."""
    for query in range(draw.randrange(32, 44)):
        text = f"{draw.choice(WORDS)} {draw.choice(WORDS)} {name} {query}"
        for number in range(1 if query == 3 else draw.randrange(4, 12)):
            length = draw.randrange(60, 160) if windows and number % 4 == 0 else draw.randrange(20)
            row = {
                "query_id": f"q{query:04d}",
                "query": text,
                "document_id": f"d{number:03d}",
                "document": " ".join([*draw.choices(WORDS, k=length), name, str(query + number)]),
                "first_stage_score": round(draw.random(), 6),
            }
            yield row
            if draw.random() < 0.03:
                yield {**row, "first_stage_score": 0.0}
            if draw.random() < 0.02:
                yield {**row, "document": "another text of this document"}
            if draw.random() < 0.03:
                yield {**row, "document_id": f"e{number:03d}", "document": None}


def _nest(rows: list[Row]) -> list[Row]:
    groups: dict[str, Row] = {}
    for row in rows:
        outer = {"query_id": row["query_id"], "query": row["query"], "hits": []}
        hit = {name: row[name] for name in ("document_id", "document", "first_stage_score")}
        groups.setdefault(row["query_id"], outer)["hits"].append(hit)
    return list(groups.values())


def write_case(
    case: Case, folder: Path, *, url: str, output: str, state: str, generation: int
) -> Path:
    """Write the job file and the table of a generation; return the job file."""
    write_rows(folder / "candidates.parquet", case.tables[generation])
    endpoint = {"url": url, "max_concurrency": CONCURRENCY, "requests_per_minute": 60_000}
    job = {
        **case.parts,
        "endpoint": endpoint,
        "output": {"path": output},
        "state": {"path": state},
    }
    path = folder / f"{'calm' if '/calm/' in output else 'killed'}.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path
