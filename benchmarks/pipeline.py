"""One million unsorted pairs through plan, score, merge and publish: pairs a second, peak memory.

The endpoint is ``rerank-jobs serve --scorer instant`` in a process of its own. The job runs in a
fresh process too, so that its peak memory is its own: ``make bench`` prints both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import yaml

from rerank_jobs import job as jobs
from rerank_jobs import shard as shards
from rerank_jobs.job_file import load_job

TABLE = """COPY (
    SELECT 'q' || (i % {queries}) AS query_id,
        'query number ' || (i % {queries}) || ' about ' || (hash(i % {queries}) % 997) AS query,
        'd' || i AS document_id,
        repeat('word' || (hash(i) % 9973) || ' ', 20 + (hash(i + 1) % 40)::INTEGER) AS document,
        (hash(i + 2) % 1000) / 1000.0 AS first_stage_score
    FROM range({pairs}) AS t(i) ORDER BY hash(i * 7)
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)"""


def main() -> None:
    """Run the benchmark, or the measured job inside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--job", type=Path, help="run this job and print its figures (internal)")
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(measure(arguments.job)))
        return
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder, serve() as url:
        figures = run(Path(folder), arguments.pairs, arguments.queries, url)
    show(arguments.pairs, figures)


@contextmanager
def serve() -> Iterator[str]:
    """Start the instant endpoint on a free port; stop it at the end."""
    command = [sys.executable, "-m", "rerank_jobs", "serve", "--port", "0", "--scorer", "instant"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().rsplit(" ", 1)[1].strip()
        finally:
            process.terminate()


def run(folder: Path, pairs: int, queries: int, url: str) -> dict[str, Any]:
    """Make the table, then measure the job in a fresh process."""
    table = folder / "candidates.parquet"
    with duckdb.connect() as con:
        con.execute(TABLE.format(pairs=pairs, queries=queries, path=table))
    job = {
        "name": "bench",
        "input": {
            "path": str(table),
            "columns": {"query_id": "query_id", "first_stage_score": "first_stage_score"},
        },
        "output": {"path": str(folder / "out")},
        "endpoint": {"url": url, "requests_per_minute": 120_000},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "benchmarks.pipeline", "--job", str(path)]
    reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(reply.stdout)
    return figures


def measure(path: Path) -> dict[str, Any]:
    """Run a job stage by stage; return seconds, peak memory and counts."""
    job = load_job(path)
    seconds = {"plan": 0.0, "score": 0.0, "merge": 0.0, "publish": 0.0}

    def timed(stage: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def run_timed(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return action(*args, **options)
            finally:
                seconds[stage] += time.perf_counter() - started

        return run_timed

    # Replaced where scoring calls it, to time it apart.
    shards.finish_shard = timed("merge", shards.finish_shard)  # type: ignore[attr-defined]
    planned = timed("plan", jobs.plan_partition)(job)
    peak_after_plan = peak_megabytes()
    for number in range(len(planned.plan.shards)):
        timed("score", jobs.score_partition_shard)(job, planned.plan, number)
    seconds["score"] -= seconds["merge"]
    peak_after_score = peak_megabytes()
    generation = timed("publish", jobs.publish_partition)(job, planned)
    return {
        "seconds": seconds,
        "peak_mb": {
            "plan": peak_after_plan,
            "score": peak_after_score,
            "publish": peak_megabytes(),
        },
        "requests": generation.document["spent"]["requests"],
        "shards": len(planned.plan.shards),
        "rows": sum(part.rows for part in generation.parts),
    }


def peak_megabytes() -> int:
    """Return this process's peak resident memory so far.

    ``ru_maxrss`` would not do: a child inherits its parent's peak over fork and exec.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def show(pairs: int, figures: dict[str, Any]) -> None:
    """Print the figures."""
    print(f"{pairs:,} pairs, {figures['requests']:,} requests, {figures['shards']} shards")
    for stage, seconds in figures["seconds"].items():
        print(f"  {stage:<8} {seconds:7.1f} s  {pairs / max(seconds, 1e-9):12,.0f} pairs/s")
    total = sum(figures["seconds"].values())
    print(f"  {'all':<8} {total:7.1f} s  {pairs / total:12,.0f} pairs/s")
    print(f"  peak memory after plan, score, publish: {list(figures['peak_mb'].values())} MB")


if __name__ == "__main__":
    main()
