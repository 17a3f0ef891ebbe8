"""A job in every layout with a canary in all that it keeps, and a search for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rerank_jobs.config import Job
from rerank_jobs.job import open_roots, plan_partition, run_partition, score_partition_shard
from rerank_jobs.plan.frozen import run_folder
from rerank_jobs.plan.identity import compute_key
from tests.builders import LONG_COLUMNS, make_job, make_rows, write_rows

QUERY = "canaryquagga in the fog"
QUERY_ID = "q-canary-0815"
DOCUMENT = "canarydodo sits on an egg. " * 4
DOCUMENT_ID = "d-canary-0815"
LONG_DOCUMENT = " ".join(f"canarydodo word{number}" for number in range(400))

NESTED_COLUMNS = {
    "query_id": "query_id",
    "query": "query",
    "candidates": "results",
    "document_id": "id",
    "document": ["title", "body"],
    "first_stage_score": "score",
}
LOG_COLUMNS = {
    "search_id": "search_id",
    "query": "query",
    "candidates": "results",
    "document_id": "id",
    "document": "body",
    "position": "position",
}

COLUMNS: dict[str, Any] = {
    "long": LONG_COLUMNS,
    "nested": NESTED_COLUMNS,
    "search_log": LOG_COLUMNS,
}


def make_layout_job(folder: Path, layout: str, **parts: Any) -> Job:
    """Return a job of a layout that keeps a generation and has several shards."""
    columns = COLUMNS[layout]
    options = {
        "input": {"path": "candidates.parquet", "layout": layout, "columns": columns},
        "shards": {"rows_per_shard": 1000},
        "context": {"tokens": 128, "overlap_tokens": 8},
        **parts,
    }
    return make_job(folder, **options)


def make_canary_rows(seed: int) -> list[dict[str, Any]]:
    """Return rows in layout long: a canary query, a canary document in two lists, a duplicate."""
    rows = make_rows(6, 5, seed=seed)
    for row in rows:
        if row["query_id"] == "q0000":
            row.update(query_id=QUERY_ID, query=QUERY)
        if row["query_id"] in {"q0001", QUERY_ID} and row["document_id"].endswith("-000"):
            row.update(document_id=DOCUMENT_ID, document=DOCUMENT)
        if row["query_id"] == "q0002" and row["document_id"].endswith("-001"):
            row.update(document_id=DOCUMENT_ID, document=LONG_DOCUMENT)
    marked = [row for row in rows if row["query_id"] in {QUERY_ID, "q0001"}]
    return [*rows, {**marked[0]}, {**marked[-1]}]


def write_layout(path: Path, layout: str, rows: list[dict[str, Any]]) -> None:
    """Write rows of layout long in a layout."""
    if layout == "long":
        write_rows(path, rows)
        return
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = str(row["query_id"])
        head = {"query_id": name} if layout == "nested" else {"search_id": f"s-{name}"}
        one = found.setdefault(name, {**head, "query": row["query"], "results": []})
        item = {"id": row["document_id"], "body": row["document"]}
        item |= {"title": f"about {row['document_id'][-3:]}", "score": row["first_stage_score"]}
        one["results"].append({**item, "position": len(one["results"]) + 1})
    write_rows(path, list(found.values()))


def put_input(job: Job, rows: list[dict[str, Any]]) -> None:
    write_layout(Path(job.base) / "candidates.parquet", job.input.layout, rows)


def spread_canaries(job: Job) -> None:
    """Leave canaries everywhere: two generations, a sample, a half-scored plan, rejected rows."""
    for seed in (1, 2):
        put_input(job, make_canary_rows(seed))
        run_partition(job)
    put_input(job, make_canary_rows(3))
    run_partition(job, limit_queries=100)
    put_input(job, make_canary_rows(4))
    plan = plan_partition(job).plan
    assert plan is not None
    score_partition_shard(job, plan, 0)
    state = open_roots(job).state
    state.delete(f"{run_folder('_all', plan.plan_id, 0)}/done.json")  # as if killed before
    scratch = Path(job.state_root) / "scratch-left"
    scratch.mkdir()
    (scratch / "lock").touch()
    (scratch / "spill").write_text(f"{QUERY} {DOCUMENT}")
    put_input(job, make_canary_rows(2))


def kept_files(job: Job) -> list[Path]:
    """Return every file that the job keeps; scratch space is a part of its state."""
    roots = [job.output_root, job.rejected_root, job.state_root]
    return [path for root in roots for path in sorted(Path(root).rglob("*")) if path.is_file()]


def read_everything(path: Path) -> bytes:
    """Return a file's bytes, and all that an Arrow or Parquet reader finds in it."""
    found = path.read_bytes()
    if path.suffix == ".parquet":
        found += _spell(pq.read_table(path, partitioning=None))
    if path.suffix == ".arrow":
        with pa.OSFile(str(path), "r") as source, pa.ipc.open_file(source) as reader:
            found += _spell(reader.read_all())
    return found


def _spell(table: pa.Table) -> bytes:
    """Return all values, keys as they are and as digits."""
    parts: list[bytes] = []

    def add(value: Any) -> None:
        if isinstance(value, bytes):
            parts.append(value)
        elif isinstance(value, dict):
            for item in value.values():
                add(item)
        elif isinstance(value, list):
            for item in value:
                add(item)
        elif isinstance(value, str):
            parts.append(value.encode())

    for row in table.to_pylist():
        add(row)
    return b"|".join(parts)


def files_with(job: Job, *needles: bytes) -> list[str]:
    """Return the files in which any of the needles can be found."""
    return [
        str(path)
        for path in kept_files(job)
        if any(one in read_everything(path) for one in needles)
    ]


def key_of(job: Job, text: str) -> bytes:
    return compute_key(open_roots(job).state.read("salt"), text)
