"""Real tables through the whole job on the embedded endpoint: conservation, ranks, quality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rerank_jobs.config import Job
from rerank_jobs.job import RunResult, open_roots, run_partition
from rerank_jobs.job_file import parse_job
from rerank_jobs.measuring import read_rankings
from rerank_jobs.publish.publisher import Roots
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.report.evaluation import Evaluation, EvaluationOptions, evaluate, evaluate_slices
from rerank_jobs.report.qrels import read_qrels
from tests.builders import LOG_COLUMNS

COLUMNS = {
    "query_id": "query_id",
    "query": "query",
    "document_id": "doc_id",
    "document": ["title", "text", "attributes"],
    "first_stage_score": "first_stage_score",
    "first_stage_rank": "first_stage_rank",
}


@dataclass(frozen=True)
class Ran:
    """A finished run and where it is."""

    job: Job
    roots: Roots
    result: RunResult

    def evaluate(self, qrels: Path, **options: Any) -> Evaluation:
        """Measure what was published."""
        generation = self.result.generation
        assert generation is not None
        rankings = read_rankings(self.job, self.roots, generation, None)
        return evaluate(rankings, read_qrels(qrels), EvaluationOptions(**options))


def run(folder: Path, table: Path, **input_parts: Any) -> Ran:
    """Run a job over one real table."""
    data = {
        "name": table.parent.name,
        "input": {"path": str(table), "columns": COLUMNS, **input_parts},
        "output": {"path": "out"},
    }
    job = parse_job(data, base=folder)
    return Ran(job, open_roots(job), run_partition(job))


def check(ran: Ran, rows: int) -> None:
    """Everything is as the manifest says, no row is missing, a second run sends nothing."""
    generation, promise = ran.result.generation, ran.result.promise
    assert generation is not None
    found = verify_generation(ran.job, ran.roots, generation)
    assert found.problems == ()
    assert promise.rows_in == rows == promise.rows_out + promise.rows_rejected
    assert found.rows == promise.rows_out
    again = run_partition(ran.job)
    assert again.totals.requests == 0
    assert again.generation is not None
    assert again.generation.number == generation.number == 1


NAMES = ("chorus_products", "trec_session_log", "scifact_small", "cranfield")


@pytest.fixture(scope="module")
def english(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Run the four English sets once."""
    return {
        name: run(tmp_path_factory.mktemp(name), shared_data / name / "candidates.parquet")
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_long_table_comes_back_whole(
    english: dict[str, Ran], shared_data: Path, name: str
) -> None:
    """Rows in are rows out and rejected; ranks, scores and hashes are as the manifest says."""
    check(english[name], pq.read_metadata(shared_data / name / "candidates.parquet").num_rows)


@pytest.mark.parametrize("name", NAMES)
def test_no_english_set_falls_below_its_first_stage(
    english: dict[str, Ran], shared_data: Path, name: str
) -> None:
    """nDCG@10 stays within 0.01 of the first stage or above it."""
    found = english[name].evaluate(
        shared_data / name / "qrels.parquet", judged_only=name == "chorus_products"
    )
    assert found.ndcg_change >= -0.01


def test_the_english_sets_gain_on_average(english: dict[str, Ran], shared_data: Path) -> None:
    """The mean gain of nDCG@10 over the four sets is at least 0.04."""
    gains = [
        english[name]
        .evaluate(shared_data / name / "qrels.parquet", judged_only=name == "chorus_products")
        .ndcg_change
        for name in NAMES
    ]
    assert sum(gains) / len(gains) >= 0.04


def test_the_search_log_comes_back_in_its_own_layout(shared_data: Path, tmp_path: Path) -> None:
    """A log's rows keep their columns; each list holds the same results, reordered and scored."""
    table = shared_data / "trec_session_log" / "search_log.parquet"
    ran = run(tmp_path, table, layout="search_log", columns=LOG_COLUMNS)
    before = pq.read_table(table)
    check(ran, before.num_rows)
    after = pq.read_table(tmp_path / "out")
    assert after.column_names == before.column_names
    assert after.drop(["results"]).equals(before.drop(["results"]))
    fields = [field.name for field in before.schema.field("results").type.value_type]
    logged: list[Any] = before["results"].to_pylist()
    ranked: list[Any] = after["results"].to_pylist()
    for one, other in zip(logged, ranked, strict=True):
        kept = [{name: item[name] for name in fields} for item in other]
        assert sorted(map(repr, kept)) == sorted(map(repr, one))
        assert [item["rerank_rank"] for item in other] == list(range(1, len(other) + 1))
    found = ran.evaluate(shared_data / "trec_session_log" / "qrels.parquet")
    assert found.ndcg_change >= -0.01


@pytest.mark.slow
def test_documents_over_the_context_are_scored_by_windows(
    shared_data: Path, tmp_path: Path
) -> None:
    """Every story is longer than the context: each is sent in windows, none is truncated."""
    table = shared_data / "squality_long" / "candidates.parquet"
    ran = run(tmp_path, table)
    check(ran, pq.read_metadata(table).num_rows)
    out = pq.read_table(
        tmp_path / "out", columns=["rerank_windows", "rerank_best_window", "rerank_status"]
    ).to_pylist()
    scored = [row for row in out if row["rerank_status"] == "scored"]
    assert min(row["rerank_windows"] for row in scored) >= 2
    assert all(0 <= row["rerank_best_window"] < row["rerank_windows"] for row in scored)
    found = ran.evaluate(shared_data / "squality_long" / "qrels.parquet")
    assert found.ndcg_change >= -0.01


@pytest.mark.slow
def test_no_language_falls_far_below_its_first_stage(shared_data: Path, tmp_path: Path) -> None:
    """Twelve languages: nDCG@10 of each stays within 0.02 of its first stage."""
    table = shared_data / "xquad_multilingual" / "candidates.parquet"
    ran = run(tmp_path, table)
    check(ran, pq.read_metadata(table).num_rows)
    generation = ran.result.generation
    assert generation is not None
    rankings = read_rankings(ran.job, ran.roots, generation, "lang")
    qrels = read_qrels(shared_data / "xquad_multilingual" / "qrels.parquet")
    changes = {lang: one.ndcg_change for lang, one in evaluate_slices(rankings, qrels).items()}
    assert len(changes) == 12
    assert min(changes.values()) >= -0.02, changes
