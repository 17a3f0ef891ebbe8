"""``ledger``: what is paid and kept, counted, compacted, taken out and brought in."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from rerank_jobs.config import check_partition_key
from rerank_jobs.dollars import show_usd
from rerank_jobs.embedded import identify_scorer
from rerank_jobs.errors import JobError
from rerank_jobs.exporting import export_keys, export_texts
from rerank_jobs.importing import import_scores
from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.keeping import LedgerStats, ScorerStats, compact_everything, count_ledger
from rerank_jobs.score_files import COLUMNS

__all__ = ["compact", "export", "import_file", "stats"]


def stats(arguments: argparse.Namespace) -> int:
    """Print what the ledger of a job's state root holds, scorer by scorer."""
    job = load_job(arguments.job)
    found, ours = count_ledger(open_roots(job).state), identify_scorer(job)
    if arguments.json:
        _print_json({**found.to_json(), "scorer_id": ours})
    else:
        _print_stats(Console(highlight=False), found, ours)
    return 0


def compact(arguments: argparse.Namespace) -> int:
    """Bring all sealed scores into the libraries and merge each to one file."""
    job = load_job(arguments.job)
    done = compact_everything(open_roots(job).state)
    if arguments.json:
        _print_json(asdict(done))
        return 0
    print(
        f"{sum(done.added.values()):,} scores added; {len(done.files)} libraries of one file each."
    )
    for folder in done.unknown:
        print(f"Left out: {folder}: neither a plan nor a manifest says whose scores it holds.")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write scores to a file: by key, or with the texts of a published partition."""
    job = load_job(arguments.job)
    if arguments.partition is None:
        count, what = export_keys(job, arguments.to), "by key"
    else:
        check_partition_key(arguments.partition)
        count, what = export_texts(job, arguments.partition, arguments.to), "with their texts"
    if arguments.json:
        _print_json({"scores": count, "file": str(arguments.to)})
    else:
        print(f"{count:,} scores {what}: {arguments.to}")
    return 0


def import_file(arguments: argparse.Namespace) -> int:
    """Bring scores that were paid elsewhere into the job's library."""
    job = load_job(arguments.job)
    done = import_scores(
        job,
        arguments.file,
        columns=_parse_columns(arguments.columns),
        any_model=arguments.any_model,
        now=datetime.now(UTC),
    )
    if arguments.json:
        _print_json(asdict(done))
    else:
        known = "" if done.added else ": the file was imported before"
        print(f"{done.scores:,} scores read, {done.added:,} added{known}. They cost nothing here.")
    return 0


def _parse_columns(text: str | None) -> dict[str, str]:
    found = {}
    for item in text.split(",") if text else ():
        name, equals, column = item.partition("=")
        if name not in COLUMNS or not equals or not column:
            raise JobError(
                f"--columns {item}: must be NAME=COLUMN, separated by commas, with names of"
                f" {', '.join(COLUMNS)}"
            )
        found[name] = column
    return found


def _print_stats(console: Console, found: LedgerStats, ours: str) -> None:
    if not found.scorers:
        console.print("Nothing is paid yet.")
    for scorer, one in found.scorers.items():
        mine = " (this job's)" if scorer == ours else ""
        console.print(f"Scorer {scorer}{mine}", style="bold")
        table = Table(show_header=False, box=None, pad_edge=False)
        for row in _list_rows(one):
            table.add_row(*row)
        console.print(table)
    for name in found.ignored:
        console.print(f"Ignored, torn or foreign: {name}", soft_wrap=True)


def _list_rows(one: ScorerStats) -> list[tuple[str, str]]:
    span = (
        f"{one.oldest:%Y-%m-%d} to {one.newest:%Y-%m-%d}" if one.oldest and one.newest else "none"
    )
    months = ", ".join(f"{month} {show_usd(usd)}" for month, usd in one.paid_usd.items())
    return [
        ("Library", f"{one.pairs:,} pairs in {one.files:,} files, {one.bytes:,} bytes"),
        ("Paid on", span),
        ("Segments", f"{one.segments:,}, of which {one.uncompacted:,} not in the library yet"),
        ("Requests", f"{one.requests:,}; {one.imported:,} scores imported"),
        ("Dollars", months or "none"),
    ]


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
