"""The scenario's figures, its table and its job: 40,000 pairs in six shards of unequal size."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from rerank_jobs.plan.identity import route
from tests.builders import LONG_COLUMNS, WORDS, write_rows
from tests.cluster.settings import Plan

__all__ = ["write_job", "write_table"]

DOCUMENTS = 40
SHARD_REQUESTS = (40, 60, 600, 80, 100, 120)
"""Queries of each shard, which are requests. One is large: it lasts until lost tasks are back."""

REQUESTS = sum(SHARD_REQUESTS)
PAIRS = REQUESTS * DOCUMENTS

LIMIT, WINDOW = 100, 6.0
LATENCY = (0.02, 0.12)
CONCURRENCY, UNSAVED = 4, 8
AT_RISK = CONCURRENCY + UNSAVED
"""Requests that a killed task may have paid in vain: in flight, and answered but unsealed."""

QUERY_CANARY = "quollbandicoot"
KEY = "sk-or-v1-echidnapotoroo"
PARTITION = "2026-11-22"


def write_table(folder: Path) -> None:
    """Write ``PAIRS`` distinct pairs, shuffled; each query holds the canary."""
    draw = random.Random(27)
    left = list(SHARD_REQUESTS)
    rows, number = [], 0
    while any(left):
        number += 1
        query = f"{QUERY_CANARY} {draw.choice(WORDS)} {draw.choice(WORDS)} {number}"
        shard = route(query, len(left))
        if not left[shard]:
            continue
        left[shard] -= 1
        rows += [
            {
                "query_id": f"q{number:05d}",
                "query": query,
                "document_id": f"d{number:05d}-{place:02d}",
                "document": f"{' '.join(draw.choices(WORDS, k=12))} {number} {place}",
                "first_stage_score": round(draw.random(), 6),
            }
            for place in range(DOCUMENTS)
        ]
    draw.shuffle(rows)
    write_rows(folder / f"ds={PARTITION}" / "part-0.parquet", rows)


def write_job(path: Path, plan: Plan, output: str, **endpoint: Any) -> Path:
    """Write a job file beside the table ``in``; ``endpoint`` adds keys of the endpoint."""
    document = {
        "name": "night",
        "input": {"path": "in/{partition}", "columns": LONG_COLUMNS},
        "partition": {"template": "ds={key}"},
        "output": {"path": output},
        "endpoint": {
            "url": plan.endpoint_url,
            "model": "cohere/rerank-v3.5",
            "max_concurrency": CONCURRENCY,
            "timeout_seconds": 5,
            **endpoint,
        },
        "ledger": {"max_unsaved_replies": UNSAVED},
        "shards": {"rows_per_shard": -(-PAIRS // len(SHARD_REQUESTS))},
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path
