"""The demo: its job file, its Airflow, its summary, and what it says when something is wrong."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from rerank_jobs.airflow.once import find_dags_folder, make_environment
from rerank_jobs.cli.demo import JOB_FILE, run_demo
from rerank_jobs.errors import JobError
from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.publish.generations import read_current
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.report.demo_table import DOCUMENT_FIELDS

DAY = "2026-11-22"


def run_small(folder: Path) -> tuple[int, str]:
    """Run the demo with a small table; return its exit code and what it showed."""
    shown = Console(file=io.StringIO(), width=100)
    code = run_demo(folder, DAY, shown, queries=40, candidates=10)
    assert isinstance(shown.file, io.StringIO)
    return code, shown.file.getvalue()


def test_the_job_file_is_valid_and_free(tmp_path: Path) -> None:
    """The demo's job file is a job: the table's document columns, on the embedded endpoint."""
    path = tmp_path / "rerank.yaml"
    path.write_text(JOB_FILE, encoding="utf-8")
    job = load_job(path)
    assert job.input.columns.document == DOCUMENT_FIELDS
    assert job.input_location(DAY) == str(tmp_path / "candidates" / f"ds={DAY}")
    assert (job.endpoint.embedded, job.endpoint.price_usd) == (True, 0.0)


def test_another_airflows_settings_are_left_out(tmp_path: Path) -> None:
    """No setting of an Airflow outside reaches the demo's; everything else does."""
    outside = {
        "PATH": "/bin",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW_CONN_X": "http://elsewhere",
        "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "other",
    }
    made = make_environment(tmp_path, find_dags_folder(), outside)
    assert made["PATH"] == "/bin"
    assert made["AIRFLOW_HOME"] == str(tmp_path)
    assert made["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert {"AIRFLOW_CONN_X", "_AIRFLOW_PARSING_CONTEXT_DAG_ID"}.isdisjoint(made)
    assert (find_dags_folder() / "nightly_rerank.py").is_file()


def test_a_partition_that_names_no_folder_is_refused(tmp_path: Path) -> None:
    """A hostile partition key ends the demo before anything is written."""
    with pytest.raises(JobError, match="partition key"):
        run_demo(tmp_path / "demo", "../up", Console(file=io.StringIO()))
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
@pytest.mark.dags
def test_the_demo_shows_what_it_did_and_the_second_time_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The demo publishes a table that verifies, without noise; again, it sends nothing."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "nonsense://nowhere")
    folder = tmp_path / "demo"

    code, shown = run_small(folder)
    table = (folder / "candidates" / f"ds={DAY}" / "part-0.parquet").read_bytes()
    again, shown_again = run_small(folder)

    job = load_job(folder / "rerank.yaml")
    generation = read_current(open_roots(job).state, DAY)
    assert generation is not None
    found = verify_generation(job, open_roots(job), generation)
    assert (code, again) == (0, 0)
    assert (found.problems, found.rows, found.generation) == ((), 400, 1)
    assert (folder / "candidates" / f"ds={DAY}" / "part-0.parquet").read_bytes() == table
    assert "40 requests sent" in shown
    assert "nothing sent" in shown_again
    for text in (shown, shown_again):
        assert "nDCG@10" in text
        assert "On the real API: 40 search units" in text
        assert "[info" not in text
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.slow
@pytest.mark.dags
def test_a_failure_is_one_line_with_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a task said stands in one line beside the log's path; the exit code is the error's."""
    text = JOB_FILE.replace("path: candidates/", "path: elsewhere/")
    (tmp_path / "rerank.yaml").write_text(text, encoding="utf-8")

    code, _ = run_small(tmp_path)

    out, error = capfd.readouterr()
    log = tmp_path / "airflow" / "run.log"
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert "task rerank.plan" in error
    assert f"elsewhere{os.sep}ds={DAY}: no such file" in error
    assert f"(log: {log})" in error
    assert "AirflowFailException" in log.read_text(encoding="utf-8")
