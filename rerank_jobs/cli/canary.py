"""``canary``: a fixed query with 20 documents scored again, and what moved since earlier nights."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

import orjson

from rerank_jobs.canary import check_canary, run_canary
from rerank_jobs.dollars import show_usd
from rerank_jobs.job_file import load_job

__all__ = ["canary"]


def canary(arguments: argparse.Namespace) -> int:
    """Score the canary, print what came of it, and make an alarm of what moved.

    Raises:
        CanaryMoved: model, provider or a score is another one.
        Stopped: see ``rerank_jobs.canary``.

    """
    job = load_job(arguments.job)
    result = run_canary(job, tolerance=arguments.tolerance, accept=arguments.accept)
    if arguments.json:
        document = {**asdict(result), "moved": result.moved}
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        print(f"Sent: {result.search_units} search unit(s), {show_usd(result.cost_usd)}")
        models = ", ".join(result.reading.models)
        providers = ", ".join(result.reading.providers) or "no provider named"
        print(f"Model: {models} ({providers})")
        print(f"Reading {result.number}: {result.describe()}")
    check_canary(job, result)
    return 0
