"""``publish`` and ``paths``: generations by command, as a person or a pipeline uses them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rerank_jobs import publishing
from rerank_jobs.job import plan_partition, run_partition, score_partition_shard
from rerank_jobs.job_file import load_job
from rerank_jobs.plan.frozen import read_plan
from tests.builders import make_job_data, make_rows, write_rows
from tests.unit.cli.kit import call, call_json

Capture = pytest.CaptureFixture[str]


def write(folder: Path, seed: int, **parts: Any) -> Path:
    """Write the input of a seed and the job file; return the job file."""
    write_rows(folder / "candidates.parquet", make_rows(6, 5, seed=seed))
    path = folder / "job.yaml"
    data = make_job_data(**{"shards": {"rows_per_shard": 15}, **parts})
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def published(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out").glob("*.parquet")}


def test_paths_are_one_a_line(tmp_path: Path, capsys: Capture) -> None:
    """A shell or DuckDB takes them as they are; ``--json`` adds what they are of."""
    job = write(tmp_path, 1)
    call(capsys, "paths", job).assert_says(2, "nothing is published yet")
    call_json(capsys, "run", job)
    lines = call(capsys, "paths", job).out.splitlines()
    assert sorted(lines) == sorted(str(path) for path in (tmp_path / "out").glob("*.parquet"))
    found = call_json(capsys, "paths", job)
    assert (found["paths"], found["generation"], found["rows"]) == (lines, 1, 30)


def test_going_back_and_forth_by_command(tmp_path: Path, capsys: Capture) -> None:
    """The earlier table comes back byte for byte; a rerun says that its plan is withdrawn."""
    call_json(capsys, "run", write(tmp_path, 1))
    one = published(tmp_path)
    job = write(tmp_path, 2)
    call_json(capsys, "run", job)
    two = published(tmp_path)
    earlier = call(capsys, "paths", job, "--generation", 1).out.splitlines()
    assert sorted(Path(path).read_bytes() for path in earlier) == sorted(one.values())

    back = call(capsys, "publish", job, "--generation", 1)
    assert back.code == 0
    assert "Generation 3 restores generation 1" in back.out
    assert "--generation 2" in back.out
    assert published(tmp_path) == one

    again = call(capsys, "run", job)
    assert (again.code, published(tmp_path)) == (0, one)
    assert "This plan is withdrawn: generation 3 went back to generation 1." in again.out
    assert "Sent: nothing" in again.out
    assert call_json(capsys, "run", job)["withdrawn"] is True

    forth = call_json(capsys, "publish", job, "--generation", 2)
    assert (forth["generation"], forth["restores"], forth["changed"]) == (4, 2, True)
    assert published(tmp_path) == two
    assert call_json(capsys, "run", job)["withdrawn"] is False


def test_generations_are_listed_newest_first(tmp_path: Path, capsys: Capture) -> None:
    """Each with its number, plan and rows, and whether one can go back to it."""
    for seed in (1, 2, 3):
        call_json(capsys, "run", write(tmp_path, seed))
    job = tmp_path / "job.yaml"
    call(capsys, "publish", job, "--generation", 1).assert_says(2, "not retained: those", ": 2 ")
    call_json(capsys, "publish", job, "--generation", 2)
    listed = call_json(capsys, "paths", job, "--generations")["generations"]
    assert [one["generation"] for one in listed] == [4, 3, 2, 1]
    assert [one["kept"] for one in listed] == ["current", "retained", "retained", ""]
    assert listed[0]["restores"] == 2
    lines = call(capsys, "paths", job, "--generations").out.splitlines()
    assert len(lines) == 5
    assert lines[1].endswith("current, restores 2")


def test_publish_puts_damaged_files_back(tmp_path: Path, capsys: Capture) -> None:
    """What ``verify`` finds ``publish`` mends, also bytes of the same size; nothing is sent."""
    job = write(tmp_path, 1)
    call_json(capsys, "run", job)
    before = published(tmp_path)
    name, data = next(iter(before.items()))
    path = tmp_path / "out" / name
    path.unlink()  # the state's copy is the same file by another name
    path.write_bytes(data[:100] + bytes(8) + data[108:])
    call(capsys, "verify", job).assert_says(4, "rerank-jobs publish", "puts back")
    mended = call(capsys, "publish", job)
    assert (mended.code, published(tmp_path)) == (0, before)
    assert "Generation 1 is whole again: 1 files were put back." in mended.out
    assert call(capsys, "verify", job).code == 0
    assert "nothing to publish" in call(capsys, "publish", job).out
    assert call_json(capsys, "publish", job)["mended"] == []


def test_publish_makes_the_newest_finished_plan_current(tmp_path: Path, capsys: Capture) -> None:
    """Without a plan, or with shards to score, it says what is missing; a sample is not taken."""
    job = write(tmp_path, 1)
    call(capsys, "publish", job).assert_says(2, "no plan to publish")
    loaded = load_job(job)
    run_partition(loaded, limit_queries=2)
    call(capsys, "publish", job).assert_says(2, "no plan to publish")
    plan = plan_partition(loaded).plan
    assert plan is not None
    score_partition_shard(loaded, plan, 0)
    call(capsys, "publish", job).assert_says(2, f"has 1 of {len(plan.shards)} shards done")
    for shard in plan.shards:
        score_partition_shard(loaded, plan, shard.number)
    done = call_json(capsys, "publish", job)
    assert (done["generation"], done["plan_id"], done["rows"]) == (1, plan.plan_id, 30)
    assert not list((tmp_path / "out.state" / "_all" / "plan").glob(f"{plan.plan_id}.json"))


def test_publish_after_a_guard_was_raised(tmp_path: Path, capsys: Capture) -> None:
    """A plan that a guard held back is published by command once the guard allows it."""
    job = write(tmp_path, 1, publish={"max_top1_changed": 0})
    call(capsys, "run", job).assert_says(4, "publish.max_top1_changed", "nothing was published")
    call(capsys, "publish", job).assert_says(4, "publish.max_top1_changed")
    job = write(tmp_path, 1, publish={"max_top1_changed": 1})
    assert call_json(capsys, "publish", job)["generation"] == 1
    manifest = json.loads(next((tmp_path / "out.state").glob("_all/manifest/*")).read_text())
    assert call_json(capsys, "run", job)["ranking"] == manifest["ranking"]


def test_a_finished_plan_older_than_the_table_is_not_published(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a gate held back before a newer table was published does not replace that table."""
    job = write(tmp_path, 1, publish={"max_top1_changed": 0})
    call(capsys, "run", job).assert_says(4, "max_top1_changed")
    call_json(capsys, "run", write(tmp_path, 2))
    manifest = next((tmp_path / "out.state").glob("_all/manifest/*"))
    plan = next((tmp_path / "out.state").glob("_all/plan/*"))
    early = json.loads(manifest.read_text())["created_at"].replace("2026", "2025")

    def read_early(*arguments: Any) -> Any:
        return dataclasses.replace(read_plan(*arguments), created_at=early)

    assert plan.is_file()
    monkeypatch.setattr(publishing, "read_plan", read_early)
    found = call_json(capsys, "publish", job)
    assert (found["generation"], found["changed"]) == (1, False)
