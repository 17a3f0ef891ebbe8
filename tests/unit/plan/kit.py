"""What tests of plans share: a plan built from rows, with its passages and requests."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_jobs.config import Job
from rerank_jobs.plan.build import Draft, build_plan
from rerank_jobs.plan.tokens import estimate_text
from rerank_jobs.plan.work import read_batches
from rerank_jobs.tables.sources import open_input
from tests.builders import WORDS, make_job, write_rows


@dataclass(frozen=True)
class Built:
    """A draft, and its passages in order, each with its ``request``."""

    job: Job
    draft: Draft
    passages: list[dict[str, Any]]

    @property
    def requests(self) -> dict[tuple[int, int], list[dict[str, Any]]]:
        """Passages by (shard, number of the request) that sends them."""
        found = defaultdict(list)
        for passage in self.passages:
            if passage["request"] >= 0:
                found[passage["shard"], passage["request"]].append(passage)
        return dict(found)


def make_row(
    query: str, document: str, *, group: str | None = None, number: int = 0
) -> dict[str, Any]:
    """Return a row of layout long; the query text names its group unless one is given."""
    return {
        "query_id": query[:40] if group is None else group,
        "query": query,
        "document_id": f"d{number}-{document[:20]}",
        "document": document,
        "first_stage_score": -float(number),
    }


def make_ambiguous_text(query: str) -> str:
    """Return a text that is two chunks with a query by reading I1 and three by I2."""
    text, most = "", 2 * (500 - estimate_text(query))
    while estimate_text(text) <= most:
        text += f" {WORDS[len(text) % len(WORDS)]}"
    return text


def build(
    folder: Path, rows: list[dict[str, Any]], options: dict[str, Any] | None = None, **parts: Any
) -> Built:
    """Build the plan of a job over rows; ``options`` are those of ``build_plan``."""
    write_rows(folder / "candidates.parquet", rows)
    job = make_job(folder, **parts)
    work = folder / "work"
    work.mkdir()
    table = open_input(job, "_all")
    arguments: dict[str, Any] = {"salt": b"s" * 32, "library": None, "folder": work}
    draft = build_plan(job, table, **{**arguments, **(options or {})})
    passages = []
    for shard in range(len(draft.prices)):
        rows_of = [
            [
                row
                for batch in read_batches(draft.work_file(kind, shard))
                for row in batch.to_pylist()
            ]
            for kind in ("passages", "schedule")
        ]
        for passage, sent in zip(*rows_of, strict=True):
            passages.append({**passage, **sent, "shard": shard})
    return Built(job, draft, passages)
