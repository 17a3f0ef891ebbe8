"""Measuring a published generation, in each layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import InputError
from rerank_jobs.job import open_roots, run_partition
from rerank_jobs.measuring import measure_generation
from rerank_jobs.publish.generations import Generation, read_current
from rerank_jobs.report.movement import measure_movement
from rerank_jobs.report.rankings import RankingColumns, rankings_from_table
from tests.builders import LONG_COLUMNS, make_job, make_rows, read_output, write_rows

QUERIES, CANDIDATES = 9, 12


def publish(folder: Path, layout: str) -> tuple[Job, Generation]:
    """Publish the same pairs in a layout, as two shards."""
    rows = make_rows(QUERIES, CANDIDATES, seed=3)
    columns: dict[str, Any] = dict(LONG_COLUMNS)
    if layout != "long":
        columns["candidates"] = "hits"
        fields = ("document_id", "document", "first_stage_score")
        lists: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows:
            hit = {name: row[name] for name in fields}
            lists.setdefault((row["query_id"], row["query"]), []).append(hit)
        rows = [{"query_id": i, "query": text, "hits": hits} for (i, text), hits in lists.items()]
    write_rows(folder / "candidates.parquet", rows)
    parts = {"path": "candidates.parquet", "layout": layout, "columns": columns}
    job = make_job(folder, input=parts, shards={"rows_per_shard": max(1, len(rows) // 2)})
    run_partition(job)
    current = read_current(open_roots(job).state, "_all")
    assert current is not None
    return job, current


def test_every_layout_moves_alike(tmp_path: Path) -> None:
    """The movement in layouts long, nested and search_log is that of the same table in memory."""
    job, generation = publish(tmp_path / "long", "long")
    names = RankingColumns("query_id", "document_id")
    expected = measure_movement(
        rankings_from_table(read_output(job), names),
        group="group",
        before_rank="before_rank",
        after_rank="after_rank",
        status="status",
    )
    assert expected.groups == QUERIES
    assert expected.mean_abs_delta > 0
    assert measure_generation(job, open_roots(job), generation).movement == expected
    for layout in ("nested", "search_log"):
        job, generation = publish(tmp_path / layout, layout)
        measured = measure_generation(job, open_roots(job), generation)
        assert measured.movement == expected
        assert measured.evaluation is None


def test_judgements_add_quality_before_and_after(tmp_path: Path) -> None:
    """Judged by its own final order a table is perfect after and was not before."""
    job, generation = publish(tmp_path, "long")
    rows = read_output(job).select(["query_id", "document_id", "rerank_rank"]).to_pylist()
    best = [f"{row['query_id']} 0 {row['document_id']} 1" for row in rows if row["rerank_rank"] < 3]
    judged = tmp_path / "judged.qrels"
    judged.write_text("\n".join(best), encoding="utf-8")
    found = measure_generation(job, open_roots(job), generation, judged).evaluation
    assert found is not None
    assert (found.queries_measured, found.after.ndcg_at_10) == (QUERIES, 1.0)
    assert found.before.ndcg_at_10 < 1.0
    with pytest.raises(InputError, match="does not exist"):
        measure_generation(job, open_roots(job), generation, tmp_path / "nowhere.qrels")
