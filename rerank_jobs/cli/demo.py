"""``demo``: a table from Python's own documentation through the nightly DAG, and what came of it.

It needs no key, no service and no network. Airflow runs in a process of its own, with a home of its
own in the demo's folder, so that neither its log nor another Airflow's settings are in the way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from rerank_jobs.airflow.once import find_dags_folder, make_environment
from rerank_jobs.config import Job, check_partition_key
from rerank_jobs.errors import StateError
from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.plan.promise import Promise
from rerank_jobs.publish.generations import Generation, read_current
from rerank_jobs.report.demo_table import DOCUMENT_FIELDS, DemoTable, build_demo
from rerank_jobs.report.qrels import read_qrels
from rerank_jobs.report.rankings import RankingColumns
from rerank_jobs.report.summary import RunFacts, print_summary, summarise_demo

__all__ = ["JOB_FILE", "demo", "run_demo"]

API_REQUESTS_PER_MINUTE = 1000
STOP_SECONDS = 20.0
# Always the same run: started again after a crash it owns its claims and goes on at once.
RUN_AFTER = "2026-11-23T02:00:00+00:00"

JOB_FILE = f"""\
# The demo's job: find the object that a sentence of Python's documentation describes.
# This file is yours to change; the demo does not write it again. Relative paths start here.
# Then: rerank-jobs plan, run, verify or evaluate with this file and --partition KEY.
name: demo

input:
  path: candidates/{{partition}}       # one folder per partition: candidates/ds=2026-11-22
  layout: long                       # one row per query and candidate
  columns:
    query_id: query_id
    query: query                     # the sentence
    document_id: doc_id
    # Several columns: each document is sent as YAML, in this order.
    document: [{", ".join(DOCUMENT_FIELDS)}]
    first_stage_score: first_stage_score   # of a BM25 first stage
    first_stage_rank: first_stage_rank

partition: {{template: "ds={{key}}"}}

output: {{path: reranked}}             # published tables; plans and scores are in reranked.state

endpoint:
  url: embedded                      # an offline English stand-in inside this process, free
  model: cohere/rerank-v3.5
  # The real one (about $0.40 for this table): set OPENROUTER_API_KEY and write instead
  # url: https://openrouter.ai/api/v1

budget: {{max_usd: 1.0}}               # a dearer plan sends nothing

shards: {{rows_per_shard: 5000}}       # small, so that the DAG has several tasks to show
"""


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo in ``arguments.folder``; a second time it sends nothing."""
    return run_demo(arguments.folder, arguments.partition, Console())


def run_demo(
    folder: Path, partition: str, console: Console, *, queries: int = 400, candidates: int = 50
) -> int:
    """Build the table, run the nightly DAG for one partition and print the summary.

    Raises:
        JobError, InputError: the partition key, or the job file as the user changed it, is wrong.

    """
    check_partition_key(partition)
    folder.mkdir(parents=True, exist_ok=True)
    _say(console, "Building a candidate table from Python's own documentation")
    table = build_demo(folder, queries=queries, candidates=candidates, key=partition)
    _say(
        console,
        f"  {table.rows:,} rows: {table.queries:,} queries, the best {candidates} of"
        f" {table.documents:,} documents each, by BM25",
    )
    job_file = folder / "rerank.yaml"
    if not job_file.exists():
        job_file.write_text(JOB_FILE, encoding="utf-8")
    job = load_job(job_file)
    _say(console, f"Running the DAG nightly_rerank for partition {partition} (Airflow starts up)")
    log = folder / "airflow" / "run.log"
    outcome = _run_dag(console, folder / "airflow", log, job_file, partition)
    if outcome["exit_code"]:
        where = f" in task {outcome['task']}" if outcome.get("task") else ""
        print(
            f"rerank-jobs: the DAG failed{where}: {outcome['message']} (log: {_short(log)})",
            file=sys.stderr,
        )
        return int(outcome["exit_code"])
    console.print()
    _summarise(console, job, job_file, table, partition, outcome)
    return 0


def _run_dag(
    console: Console, home: Path, log: Path, job_file: Path, partition: str
) -> dict[str, Any]:
    """Run the nightly DAG in a process of its own; return its result, or why there is none."""
    home.mkdir(parents=True, exist_ok=True)
    result = home / "result.json"
    result.unlink(missing_ok=True)
    conf = json.dumps({"job": str(job_file.absolute()), "partition": partition})
    command = [sys.executable, "-P", "-m", "rerank_jobs.airflow.once", "nightly_rerank"]
    command += ["--conf", conf, "--xcom-of", "rerank.publish", "--result", str(result)]
    command += ["--run-after", RUN_AFTER]
    environment = make_environment(home, find_dags_folder(), os.environ)
    environment["RERANK_JOBS_WAIT_HOURS"] = "0"  # its table is there, or never will be
    with (
        log.open("wb") as sink,
        subprocess.Popen(  # noqa: S603 - our own module, no shell
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            encoding="utf-8",
        ) as process,
    ):
        try:
            _relay(console, process.stdout)
            code = process.wait()
        except KeyboardInterrupt:
            _stop(process)
            raise
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found
    return {"exit_code": code if code > 0 else 1, "message": f"it ended with code {code}"}


def _relay(console: Console, lines: IO[str] | None) -> None:
    for line in lines or ():
        _say(console, f"  {line.rstrip()}")


def _stop(process: subprocess.Popen[str]) -> None:
    """Let the DAG seal what it has: the terminal sent it the same signal."""
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _summarise(
    console: Console,
    job: Job,
    job_file: Path,
    table: DemoTable,
    partition: str,
    outcome: dict[str, Any],
) -> None:
    roots = open_roots(job)
    generation = read_current(roots.state, partition)
    if generation is None:
        raise StateError(f"{roots.state.location}: nothing is published for partition {partition}")
    promise = Promise(**generation.document["promise"])
    figures = outcome["value"]
    facts = RunFacts(
        queries=promise.queries,
        pairs=promise.pairs,
        requests_sent=figures["requests"],
        seconds=outcome["seconds"],
        api_model=job.endpoint.model,
        api_search_units=promise.search_units,
        api_usd=promise.api_usd,
        api_seconds=promise.requests * 60 / API_REQUESTS_PER_MINUTE,
        places={
            "Candidates": _short(table.candidates),
            "Reranked": _short(Path(figures["output"])),
            "Manifest": _short(Path(figures["manifest"])),
            "Judgements": _short(table.qrels),
            "Job file": _short(job_file),
            "Airflow log": _short(job_file.parent / "airflow" / "run.log"),
        },
    )
    columns = RankingColumns(job.input.columns.query_id or "", job.input.columns.document_id)
    scored = _read(job, generation, columns)
    summary = summarise_demo(
        scored, read_qrels(table.qrels), columns, facts, query=job.input.columns.query
    )
    print_summary(console, summary)


def _read(job: Job, generation: Generation, columns: RankingColumns) -> pa.Table:
    """Read the published table without its documents."""
    wanted = [columns.query_id, columns.document_id, columns.before_rank, columns.after_rank]
    wanted += [job.input.columns.query, columns.status or ""]
    output = open_roots(job).output
    return pa.concat_tables(
        pq.ParquetFile(output.fetch(part.name)).read(columns=wanted) for part in generation.parts
    )


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


def _short(path: Path) -> str:
    """Return a path from here if it is below, else as it is."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
