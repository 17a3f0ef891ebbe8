"""``publish``: what is scored becomes the table, a damaged table whole, an earlier one current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson

from rerank_jobs.config import Job
from rerank_jobs.job_file import load_job
from rerank_jobs.planning import open_roots
from rerank_jobs.publish.generations import Generation, read_current
from rerank_jobs.publishing import Published, publish_newest, restore_partition

__all__ = ["publish"]


def publish(arguments: argparse.Namespace) -> int:
    """Publish the newest plan that is done, or go back to a generation; nothing is sent.

    Raises:
        StateError: there is nothing to publish, or nothing to go back to.
        GateFailed: a gate forbids it.

    """
    job, partition = load_job(arguments.job), arguments.partition
    before = read_current(open_roots(job).state, partition)
    if arguments.generation is None:
        found = publish_newest(job, partition)
    else:
        found = Published(restore_partition(job, partition, arguments.generation))
    changed = before is None or before.number != found.generation.number
    if arguments.json:
        document = _describe(job, found, changed=changed)
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    for line in _list_lines(arguments.job, job, found, changed=changed):
        print(line)
    return 0


def _describe(job: Job, found: Published, *, changed: bool) -> dict[str, Any]:
    generation = found.generation
    return {
        "partition": generation.document["partition"],
        "generation": generation.number,
        "changed": changed,
        "plan_id": generation.plan_id,
        "restores": generation.document.get("restores"),
        "withdrawn": list(generation.withdrawn),
        "mended": list(found.mended),
        "files": len(generation.parts),
        "rows": _count_rows(generation),
        "output": _output(job, generation),
        "manifest": f"{job.state_root}/{generation.name}",
    }


def _list_lines(path: Path, job: Job, found: Published, *, changed: bool) -> list[str]:
    generation = found.generation
    head = f"Generation {generation.number}"
    if not changed:
        lines = [f"{head} is current: nothing to publish."]
        if found.mended:
            lines = [f"{head} is whole again: {len(found.mended)} files were put back."]
        return [*lines, _output(job, generation)]
    restores = generation.document.get("restores")
    if restores is not None:
        head += f" restores generation {restores}"
    files = f"{len(generation.parts):,} files, {_count_rows(generation):,} rows"
    lines = [f"{head} (plan {generation.plan_id[:8]}): {files} in {_output(job, generation)}"]
    if generation.withdrawn:
        plans = ", ".join(plan[:8] for plan in generation.withdrawn)
        lines.append(
            f"Withdrawn: plan {plans}: running it again sends and changes nothing."
            f" To bring back the last: rerank-jobs publish {path} --generation"
            f" {generation.number - 1}"
        )
    return lines


def _count_rows(generation: Generation) -> int:
    return sum(part.rows for part in generation.parts)


def _output(job: Job, generation: Generation) -> str:
    folder = job.partition_folder(str(generation.document["partition"]))
    return f"{job.output_root}/{folder}" if folder else job.output_root
