"""Finished shards to publish, and roots to publish them from and to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rerank_jobs.config import Job
from rerank_jobs.publish.generations import Part
from rerank_jobs.publish.publisher import PublishOrder, Roots, ShardPart
from rerank_jobs.publish.ranking import RANKING
from rerank_jobs.storage import LocalStore
from tests.builders import make_job

PARTITION = "2026-11-22"
FOLDER = "ds=2026-11-22"


def make_roots(folder: Path) -> Roots:
    """Return three empty roots."""
    return Roots(*(LocalStore(str(folder / name)) for name in ("out", "out.rejected", "state")))


def publishing_job(folder: Path, **failures: Any) -> Job:
    """Return a job whose gates are set by ``failures``."""
    return make_job(folder, partition={"template": "ds={key}"}, failures=failures)


def put_part(roots: Roots, plan: str, shard: int, data: bytes, rows: int) -> Part:
    """Leave a finished part under state, as a shard does."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"{PARTITION}/run/{plan}/{shard:05d}/part-{digest[:8]}.parquet"
    roots.state.put_if_absent(name, data)
    return Part(name, digest, len(data), rows)


def make_order(
    roots: Roots,
    plan: str,
    *contents: bytes,
    rejected: bytes | None = None,
    failed: int = 0,
    rows: int | None = None,
    documents: int | None = None,
) -> PublishOrder:
    """Return the order of a plan with one shard of ten rows per content (none if it is empty)."""
    shards = []
    for shard, data in enumerate(contents):
        part = put_part(roots, plan, shard, data, 10) if data else None
        statuses = {"scored": 10 - failed, "failed": failed} if data else {}
        shards.append(ShardPart(shard, part, statuses, dict.fromkeys(RANKING, 0)))
    full = sum(bool(data) for data in contents)
    return PublishOrder(
        partition=PARTITION,
        folder=FOLDER,
        plan_id=plan,
        shards=shards,
        rejected=put_part(roots, plan, 999, rejected, 1) if rejected else None,
        rows=10 * full if rows is None else rows,
        documents=10 * full if documents is None else documents,
        facts={"job": "test", "scorer_id": "a" * 32, "promise": {}, "spent": {}},
    )


def snapshot(*folders: str) -> dict[str, bytes]:
    """Return every file under the folders with its bytes."""
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
