"""Small search logs with clicks, and their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.unit.cli.kit import DOCUMENT_CANARY, QUERY_CANARY, Row, write_table

COLUMNS = {
    "search_id": "search_id",
    "query": "query",
    "candidates": "results",
    "document_id": "doc_id",
    "document": ["title", "snippet"],
    "position": "position",
    "clicked": "clicked",
}


def make_searches(
    searches: int = 12, *, results: int = 5, queries: int = 4, clicks: int = 1
) -> list[Row]:
    """Return searches of a few queries; each has its first clicks at its own place in the list."""
    start = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
    return [
        {
            "search_id": f"s{number}",
            "at": start + timedelta(minutes=number),
            "query": f"{QUERY_CANARY} how to fold paper {number % queries}",
            "results": [
                {
                    "doc_id": f"d{place}",
                    "title": f"{DOCUMENT_CANARY} crane {place}",
                    "snippet": f"paper fold {(number % queries) * place} of shelf {place}",
                    "position": place + 1,
                    "clicked": (place - number) % results < clicks,
                }
                for place in range(results)
            ],
        }
        for number in range(searches)
    ]


def write_log_job(folder: Path, **parts: Any) -> Path:
    """Write a job over the partitions of ``folder/log``; ``parts`` replace parts of it."""
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "name": "log",
        "input": {"path": "log/{partition}", "layout": "search_log", "columns": COLUMNS},
        "partition": {"template": "ds={key}"},
        "output": {"path": "out"},
        "enrichment": {"time": "at"},
        **parts,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


def write_searches(folder: Path, day: str, searches: Sequence[Row]) -> None:
    """Write a partition of the log."""
    write_table(folder / "log" / f"ds={day}" / "log.parquet", searches)


def read_files(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return bytes, time of the last change and inode of every file below a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): (
            path.read_bytes(),
            path.stat().st_mtime_ns,
            path.stat().st_ino,
        )
        for path in paths
    }
