"""Four runners start at once on one partition, again and again, while a reader never rests."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import yaml

from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.publish.generations import read_generations
from rerank_jobs.publish.verify import verify_generation
from tests.builders import make_job_data, make_rows, write_rows
from tests.crash.race_workers import MARKER, PATIENCE, Ran, Seen, read_on, run_rounds
from tests.unit.cli.kit import read_stats, serve

RUNNERS, ROUNDS, READS = 4, 50, 10_000
QUERIES, CANDIDATES = 12, 5


def write_round(folder: Path, number: int) -> None:
    """Write an input that no round had before: each text and each row names the round."""
    rows = make_rows(QUERIES, CANDIDATES, seed=number)
    for row in rows:
        row["query"] += f" round {number}"
        row[MARKER] = number
    write_rows(folder / "next.parquet", rows).replace(folder / "candidates.parquet")


def write_job(folder: Path, url: str) -> Path:
    """Write the job: several shards, a generation to go back to."""
    job = make_job_data(
        endpoint={"url": url, "requests_per_minute": 600_000},
        shards={"rows_per_shard": 30},
    )
    path = folder / "race.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


@pytest.mark.slow
def test_four_runners_make_one_generation_a_round_and_pay_for_one_run(tmp_path: Path) -> None:
    """50 rounds: one manifest a round, the server bills one run, no reader ever sees a mixture."""
    context = multiprocessing.get_context("spawn")
    barrier, stop = context.Barrier(RUNNERS + 1), context.Event()
    ran: Queue[Ran] = context.Queue()  # type: ignore[assignment]  # two classes, one protocol
    seen_by: Queue[Seen] = context.Queue()  # type: ignore[assignment]
    found: list[Ran] = []
    started = time.monotonic()
    with serve("--scorer", "instant", "--latency-ms", "3") as url:
        job_file = write_job(tmp_path, url)
        arguments: tuple[Any, ...] = (job_file, ROUNDS, barrier, ran)
        processes = [context.Process(target=run_rounds, args=arguments) for _ in range(RUNNERS)]
        reading = (job_file, QUERIES * CANDIDATES, READS, stop, seen_by)
        processes.append(context.Process(target=read_on, args=reading))
        for process in processes:
            process.start()
        try:
            for number in range(1, ROUNDS + 1):
                write_round(tmp_path, number)
                before = read_stats(url)
                barrier.wait(PATIENCE)
                barrier.wait(PATIENCE)
                round_ran = [ran.get(timeout=PATIENCE) for _ in range(RUNNERS)]
                found += round_ran
                check_round(job_file, number, round_ran)
                paid = {k: read_stats(url)[k] - before[k] for k in ("requests", "passages")}
                assert paid == {"requests": QUERIES, "passages": QUERIES * CANDIDATES}
            stop.set()
            seen = seen_by.get(timeout=4 * PATIENCE)
        finally:
            barrier.abort()
            for process in processes:
                process.join(timeout=5)
                process.kill()
    seconds, busy = time.monotonic() - started, sum(one.busy for one in found)
    print(
        f"{ROUNDS} rounds of {RUNNERS} runners in {seconds:.0f} s, {busy} times busy;"
        f" {seen.reads:,} reads of {len(seen.generations)} generations, {seen.replaced} replaced"
        f" while read, {seen.hashed:,} files hashed, {len(seen.wrong)} mixed or invalid"
    )
    assert seen.wrong == []
    assert seen.reads >= READS
    assert seen.hashed > READS / 20


def check_round(job_file: Path, number: int, ran: list[Ran]) -> None:
    """One generation more, the same for all runners, whole, and nothing else in the output."""
    assert [one.errors for one in ran] == [()] * RUNNERS
    assert {one.generation for one in ran} == {number}
    job = load_job(job_file)
    roots = open_roots(job)
    generations = read_generations(roots.state, "_all")
    assert [one.number for one in generations] == list(range(1, number + 1))
    assert generations[-1].document["spent"]["requests"] == QUERIES
    assert verify_generation(job, roots, generations[-1]).problems == ()
