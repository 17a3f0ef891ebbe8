"""``paths``: the files of a generation, for shell pipelines and query engines."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import orjson

from rerank_jobs.config import Job
from rerank_jobs.job_file import load_job
from rerank_jobs.planning import open_roots
from rerank_jobs.publish.generations import Generation, read_generations
from rerank_jobs.publish.retention import is_retained
from rerank_jobs.reading import read_current, read_generation

__all__ = ["paths"]


def paths(arguments: argparse.Namespace) -> int:
    """Print the files of the current generation, or of a retained one, or list all generations.

    Raises:
        StateError: nothing is published yet, or the generation is not retained.

    """
    job, partition = load_job(arguments.job), arguments.partition
    if arguments.generations:
        _print_generations(job, partition, as_json=arguments.json)
        return 0
    if arguments.generation is None:
        snapshot = read_current(job, partition)
    else:
        snapshot = read_generation(job, partition, arguments.generation)
    if arguments.json:
        _print_json(
            {
                "partition": partition,
                "generation": snapshot.generation,
                "plan_id": snapshot.plan_id,
                "created_at": snapshot.created_at,
                "rows": snapshot.rows,
                "paths": list(snapshot.paths),
            }
        )
        return 0
    for path in snapshot.paths:
        print(path)
    return 0


def _print_generations(job: Job, partition: str, *, as_json: bool) -> None:
    current = read_current(job, partition).generation
    state = open_roots(job).state
    found = []
    for one in reversed(read_generations(state, partition)):
        kept = "current" if one.number == current else "retained" if is_retained(state, one) else ""
        found.append(_describe(one, kept))
    if as_json:
        _print_json({"partition": partition, "generations": found})
        return
    print(f"{'generation':>10}  {'created':<25}  {'plan':<8}  {'rows':>12}")
    for item in found:
        again = f"restores {item['restores']}" if item["restores"] else ""
        notes = ", ".join(filter(None, (item["kept"], again)))
        print(
            f"{item['generation']:>10}  {item['created_at']:<25}  {item['plan_id'][:8]}"
            f"  {item['rows']:>12,}  {notes}".rstrip()
        )


def _describe(generation: Generation, kept: str) -> dict[str, Any]:
    return {
        "generation": generation.number,
        "created_at": generation.document["created_at"],
        "plan_id": generation.plan_id,
        "rows": sum(part.rows for part in generation.parts),
        "kept": kept,
        "restores": generation.document.get("restores"),
    }


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
