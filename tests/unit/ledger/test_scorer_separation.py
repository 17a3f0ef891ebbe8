"""Scores of one scorer are never used for another, whatever else is equal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Job
from rerank_jobs.job import Planned, open_roots, plan_partition, preview_partition, run_partition
from rerank_jobs.job_file import parse_job
from rerank_jobs.ledger.compaction import compact
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.plan.frozen import Plan, run_folder
from rerank_jobs.storage import Store
from tests.builders import make_job_data, make_rows, write_rows

EMBEDDED = {"url": "embedded"}
API = {"url": "https://api.test/api/v1"}
PAIRS = 20
OTHERS = {
    "served on this machine": {"url": "http://127.0.0.1:9/api/v1"},
    "the API": API,
    "another model": {**EMBEDDED, "model": "other/model"},
    "another revision": {**EMBEDDED, "revision": "2"},
}


@pytest.fixture(scope="module")
def paid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pay a table on the embedded endpoint as partition ``a``; ``b`` is the same table."""
    folder = tmp_path_factory.mktemp("paid")
    for key in ("a", "b"):
        write_rows(folder / f"in/{key}/rows.parquet", make_rows(4, 5))
    run_partition(make(folder, EMBEDDED), "a")
    return folder


@pytest.fixture
def api_plan(paid: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Return the plan of partition ``a`` for the API."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "key")
    planned = plan_partition(make(paid, API), "a")
    assert planned.plan is not None
    return planned.plan


def make(folder: Path, endpoint: dict[str, Any], **parts: Any) -> Job:
    data = make_job_data(endpoint=endpoint, **parts)
    data["input"]["path"] = "in/{partition}"
    return parse_job(data, base=folder)


def sent_and_reused(planned: Planned) -> tuple[int, int]:
    return planned.promise.passages - planned.promise.passages_reused, (
        planned.promise.passages_reused
    )


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("partition", ["a", "b"])
@pytest.mark.parametrize("mode", ["cheapest", "strict"])
def test_another_scorer_reuses_nothing(paid: Path, other: str, partition: str, mode: str) -> None:
    """An endpoint, model or revision that differs pays for every pair itself."""
    job = make(paid, OTHERS[other], reuse={"mode": mode})
    assert sent_and_reused(preview_partition(job, partition)) == (PAIRS, 0)


def test_the_same_scorer_reuses_everything_in_another_partition(paid: Path) -> None:
    """What is equal is paid once, over partitions."""
    job = make(paid, EMBEDDED)
    assert sent_and_reused(preview_partition(job, "b")) == (0, PAIRS)


def test_scores_of_the_api_are_not_used_for_the_embedded_endpoint(
    paid: Path, api_plan: Plan, tmp_path: Path
) -> None:
    """The other way round too: a library of the API's gives the embedded endpoint nothing."""
    shutil.copytree(paid, tmp_path, dirs_exist_ok=True)
    state = open_roots(make(tmp_path, EMBEDDED)).state
    embedded, api = scorer_of(state), api_plan.scorer_id
    assert embedded != api
    run = next(
        entry.name.rpartition("/seg/")[0].rpartition("/")[0]
        for entry in state.entries("a/run")
        if "/seg/" in entry.name
    )
    assert compact(state, api, run, run.rpartition("/")[2]) == PAIRS
    for entry in state.entries(f"library/{embedded}"):
        state.delete(entry.name)
    assert sent_and_reused(preview_partition(make(tmp_path, API), "b")) == (0, PAIRS)
    assert sent_and_reused(preview_partition(make(tmp_path, EMBEDDED), "b")) == (PAIRS, 0)


def scorer_of(state: Store) -> str:
    """Return the only scorer that has a library."""
    (scorer,) = {entry.name.split("/")[1] for entry in state.entries("library")}
    return scorer


def test_segments_of_another_scorers_plan_are_not_read(paid: Path, api_plan: Plan) -> None:
    """Plans of different scorers differ, so that not even one partition's segments are shared."""
    folder = run_folder("a", api_plan.plan_id, 0)
    state = open_roots(make(paid, API)).state
    assert load_segments(state, folder, api_plan.plan_id).pairs.num_rows == 0


def test_reuse_can_be_switched_off(paid: Path) -> None:
    """With ``reuse.mode: off`` even the same scorer pays again."""
    job = make(paid, EMBEDDED, reuse={"mode": "off"})
    assert sent_and_reused(preview_partition(job, "b")) == (PAIRS, 0)
