"""Reports gathered from state: the figures are those of the files, whatever was kept of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import JobError, StateError
from rerank_jobs.job import run_partition
from rerank_jobs.lineage import Dataset, list_inputs, list_outputs
from rerank_jobs.report.page import render_page
from rerank_jobs.reporting import find_generation, gather_figures
from tests.builders import make_job, make_rows, read_output, write_rows

QUERIES, CANDIDATES = 6, 5
ROWS = QUERIES * CANDIDATES


def run_on(job: Job, seed: int) -> None:
    write_rows(Path(job.base) / "candidates.parquet", make_rows(QUERIES, CANDIDATES, seed=seed))
    run_partition(job)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = make_job(tmp_path, shards={"rows_per_shard": 15}, publish={"keep_generations": 1})
    run_on(job, 1)
    return job


def test_the_figures_are_those_of_the_published_table(job: Job) -> None:
    """Moves are counted over all documents; sends add up over the processes of all shards."""
    figures = gather_figures(job, "_all")
    deltas = read_output(job).column("rerank_delta").to_pylist()
    assert figures.moves is not None
    assert (figures.moves.documents, figures.moves.of) == (ROWS, ROWS)
    assert figures.moves.places == sum(abs(int(delta or 0)) for delta in deltas) > 0
    assert figures.sending is not None
    assert figures.sending.totals.requests == figures.manifest["spent"]["requests"] == QUERIES
    assert (figures.sending.processes, set(figures.sending.latencies)) == (2, {"p50", "p95", "p99"})
    assert 0 < figures.sending.ended_at - figures.sending.begun_at < 600


def test_no_text_of_the_table_stands_in_the_page(job: Job) -> None:
    """No query and no document, not even a word of one that no label has."""
    page = render_page(gather_figures(job, "_all"))
    for row in make_rows(QUERIES, CANDIDATES, seed=1):
        assert row["query"] not in page
        assert row["document"] not in page


def test_a_retained_generation_is_told_from_its_copies(job: Job) -> None:
    """An earlier generation has its own moves while it is retained, and none afterwards."""
    before = gather_figures(job, "_all")
    run_on(job, 2)
    kept = gather_figures(job, "_all", 1)
    assert (kept.moves, kept.current) == (before.moves, 2)
    run_on(job, 3)
    gone = gather_figures(job, "_all", 1)
    assert (gone.moves, gone.current, gone.manifest) == (None, 3, before.manifest)
    assert "cannot be read here" in render_page(gone)


def test_records_that_are_torn_or_of_an_earlier_version_stop_nothing(job: Job) -> None:
    """A damaged record is left out, a field that it lacks is zero; without any there are none."""
    state = Path(job.state_root)
    records = sorted(state.glob("_all/run/*/*/run-*.json"))
    records[0].write_bytes(b"{torn")
    alone = gather_figures(job, "_all").sending
    assert alone is not None
    assert alone.processes == 1
    assert json.loads(records[1].read_text())["totals"]["requests"] == alone.totals.requests
    records[1].unlink()
    assert gather_figures(job, "_all").sending is None


def test_a_report_needs_a_published_generation(job: Job, tmp_path: Path) -> None:
    """A number or a partition that is not published is a typed error that says where to look."""
    with pytest.raises(StateError, match=r"partition _all has no generation 7: .* --generations"):
        gather_figures(job, "_all", 7)
    with pytest.raises(StateError, match="nothing of partition p is published yet"):
        gather_figures(job, "p")
    with pytest.raises(JobError, match="partition key"):
        gather_figures(job, "../up")
    shutil.rmtree(tmp_path / "out")
    assert gather_figures(job, "_all").moves is None


def test_datasets_are_folders_with_their_rows_bytes_and_files(job: Job, tmp_path: Path) -> None:
    """Lineage names the input file and the output folder by OpenLineage's rule for local files."""
    generation = find_generation(job, "_all")
    source = tmp_path / "candidates.parquet"
    assert list_inputs(job, generation) == [
        Dataset("file", str(source), ROWS, source.stat().st_size, 1)
    ]
    (output,) = list_outputs(job, generation)
    parts = list((tmp_path / "out").glob("*.parquet"))
    assert (output.namespace, output.name) == ("file", str(tmp_path / "out"))
    assert (output.rows, output.files) == (ROWS, len(parts))
    assert output.size == sum(part.stat().st_size for part in parts)
    assert ("rerank_score", "double") in output.fields


def test_rejected_rows_are_an_output_of_their_own(tmp_path: Path) -> None:
    """The folder of rejected rows is named beside that of the published ones."""
    job = make_job(tmp_path)
    rows = make_rows(QUERIES, CANDIDATES)
    rows[0]["document"] = ""
    write_rows(tmp_path / "candidates.parquet", rows)
    run_partition(job)
    output, rejected = list_outputs(job, find_generation(job, "_all"))
    assert (output.rows, rejected.rows) == (ROWS - 1, 1)
    assert rejected.name == str(tmp_path / "out.rejected")


def test_object_stores_are_named_by_bucket_and_key(tmp_path: Path) -> None:
    """The namespace is scheme and bucket, the name the key, as OpenLineage has it for S3."""
    local = make_job(tmp_path)
    run_on(local, 1)
    generation = find_generation(local, "_all")
    far = make_job(tmp_path, output={"path": "s3://shop/tables/out"})
    (output,) = list_outputs(far, generation)
    assert (output.namespace, output.name) == ("s3://shop", "tables/out")
    assert output.fields == ()
