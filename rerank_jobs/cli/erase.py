"""``erase``: queries and documents removed from all that a job keeps, or what that would touch."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import orjson

from rerank_jobs.erasing import Erased, erase
from rerank_jobs.errors import InputError
from rerank_jobs.job_file import load_job
from rerank_jobs.tables.matching import Wanted

__all__ = ["erase_texts"]


def erase_texts(arguments: argparse.Namespace) -> int:
    """Erase, or say what that would touch. What is erased is not printed.

    Raises:
        InputError: the file of texts cannot be read, or holds none.
        Busy: a live owner works on what would go.

    """
    job = load_job(arguments.job)
    found = erase(job, _read_wanted(arguments), arguments.partition, write=arguments.yes)
    if arguments.json:
        data = orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2)
        sys.stdout.write(data.decode() + "\n")
        return 0
    for line in _list_lines(found):
        print(line)
    return 0


def _read_wanted(arguments: argparse.Namespace) -> Wanted:
    if arguments.query_id is not None:
        return Wanted("query_id", frozenset({arguments.query_id}))
    if arguments.document_id is not None:
        return Wanted("document_id", frozenset({arguments.document_id}))
    return Wanted("text", _read_texts(arguments.text_file))


def _read_texts(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        problem = "not UTF-8"
    else:
        texts = frozenset(line.removesuffix("\r") for line in lines) - {""}
        if texts:
            return texts
        problem = "holds no text"
    raise InputError(f"{path}: {problem}: write one text a line, exactly as in the table")


def _list_lines(found: Erased) -> list[str]:
    lines = []
    for one in found.partitions:
        told = [
            f"{one.rows:,} rows and {one.documents:,} documents published",
            f"{one.rejected:,} rejected rows",
            f"{one.plans:,} unfinished plans",
            f"{one.files:,} files",
            f"{one.ledger.pairs:,} pairs in {one.ledger.files:,} segments",
        ]
        now = f", now generation {one.generation}" if found.written and one.documents else ""
        lines.append(f"Partition {one.partition}{now}: {', '.join(told)}.")
        if one.ledger.unreadable:
            lines.append(
                f"  {one.ledger.unreadable:,} damaged segments cannot be read: not erased."
            )
    lines.append(f"Library: {found.library.pairs:,} pairs in {found.library.files:,} files.")
    lines += [f"Left alone: partition {one}: another job's." for one in found.foreign]
    if not found.written:
        return [*lines, "Nothing was changed: --yes erases it. This cannot be undone."]
    return [*lines, "Erased. The input is yours: clean it too, or a changed one brings it back."]
