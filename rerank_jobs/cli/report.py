"""``report``: what a published generation did and cost, as text, JSON or a page."""

from __future__ import annotations

import argparse
import dataclasses
import sys

import orjson

from rerank_jobs.job_file import load_job
from rerank_jobs.report.page import render_page, render_text
from rerank_jobs.reporting import gather_figures

__all__ = ["report"]


def report(arguments: argparse.Namespace) -> int:
    """Print the report of a generation; with ``--html`` write it as a page as well.

    Raises:
        StateError: there is no such generation.

    """
    job = load_job(arguments.job)
    figures = gather_figures(job, arguments.partition, arguments.generation)
    if arguments.html is not None:
        arguments.html.write_text(render_page(figures), encoding="utf-8")
    if arguments.json:
        document = dataclasses.asdict(figures)
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.write(render_text(figures))
    return 0
