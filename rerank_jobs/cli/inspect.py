"""``verify`` and ``evaluate``: read what was published, trust nothing, measure it."""

from __future__ import annotations

import argparse
import sys

import orjson
from rich.console import Console

from rerank_jobs.config import ALL, Job, check_partition_key
from rerank_jobs.errors import GateFailed, StateError
from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.measuring import read_rankings
from rerank_jobs.publish.generations import Generation, read_current
from rerank_jobs.publish.publisher import Roots
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.report import evaluation as measuring
from rerank_jobs.report.qrels import read_qrels
from rerank_jobs.report.quality import render_evaluation, render_slices

__all__ = ["evaluate", "verify"]


def verify(arguments: argparse.Namespace) -> int:
    """Check a published partition against its manifest.

    Raises:
        GateFailed: something differs; each difference is printed.

    """
    job = load_job(arguments.job)
    roots, generation = _open_current(job, arguments.partition)
    found = verify_generation(job, roots, generation)
    if arguments.json:
        fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
        sys.stdout.write(orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        for problem in found.problems:
            print(problem)
    if found.problems:
        raise GateFailed(
            f"generation {found.generation}: {len(found.problems)} differences from its manifest:"
            f" rerank-jobs publish {arguments.job} puts back what is gone or damaged; remove files"
            " that it does not know yourself"
        )
    if not arguments.json:
        print(
            f"Generation {found.generation} is as its manifest says: {found.files} files,"
            f" {found.rows:,} rows, {found.documents:,} documents, {found.rejected:,} put aside."
        )
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a published partition with judgements."""
    job = load_job(arguments.job)
    roots, generation = _open_current(job, arguments.partition)
    rankings = read_rankings(job, roots, generation, arguments.by)
    qrels = read_qrels(arguments.qrels)
    options = measuring.EvaluationOptions(
        judged_only=arguments.judged_only, count_none_relevant=arguments.count_none_relevant
    )
    whole = measuring.evaluate(rankings, qrels, options)
    slices = measuring.evaluate_slices(rankings, qrels, options) if arguments.by else {}
    if arguments.json:
        document = measuring.evaluation_to_dict(whole)
        if arguments.by:
            document["by"] = {
                value: measuring.evaluation_to_dict(one) for value, one in slices.items()
            }
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    console = Console(highlight=False)
    console.print(render_evaluation(whole))
    if slices:
        console.print(render_slices(slices, by=arguments.by))
    return 0


def _open_current(job: Job, partition: str) -> tuple[Roots, Generation]:
    check_partition_key(partition)
    roots = open_roots(job)
    generation = read_current(roots.state, partition)
    if generation is None:
        shown = "" if partition == ALL else f" for partition {partition}"
        raise StateError(
            f"job {job.name}: nothing is published{shown} yet: rerank-jobs run does it"
        )
    return roots, generation
