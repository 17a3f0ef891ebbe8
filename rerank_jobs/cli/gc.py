"""``gc``: what nothing needs any more, listed by kind, and removed with ``--delete``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

import orjson

from rerank_jobs.collecting import Collection, collect
from rerank_jobs.job_file import load_job

__all__ = ["collect_garbage"]


def collect_garbage(arguments: argparse.Namespace) -> int:
    """List garbage, or remove it.

    Raises:
        StateError: the state root is of another format, or a manifest is damaged.

    """
    found = collect(
        load_job(arguments.job),
        arguments.partition,
        delete=arguments.delete,
        grace=arguments.grace_hours * 3600.0,
        keep=arguments.keep_days * 86_400.0,
    )
    if arguments.json:
        data = orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2)
        sys.stdout.write(data.decode() + "\n")
        return 0
    for line in _list_lines(found):
        print(line)
    return 0


def _list_lines(found: Collection) -> list[str]:
    kinds: dict[tuple[str, str], list[int]] = {}
    for item in found.garbage:
        kinds.setdefault((item.kind, item.reason), []).append(item.size)
    lines = [
        f"{kind:<17} {len(sizes):>8,} files {sum(sizes):>16,} bytes  {reason}"
        for (kind, reason), sizes in sorted(kinds.items())
    ]
    total = sum(item.size for item in found.garbage)
    verb = "Removed" if found.deleted else "Would remove"
    lines.append(f"{verb} {len(found.garbage):,} files of {total:,} bytes.")
    if found.garbage and not found.deleted:
        lines.append("Nothing was changed: --delete removes them, --json names them.")
    lines += [f"Left alone: partition {one}: a run or another owner has it." for one in found.busy]
    lines += [f"Left alone: partition {one}: another job's." for one in found.foreign]
    lines += [f"Not ours, left alone: {path}" for path in found.strangers]
    return lines
