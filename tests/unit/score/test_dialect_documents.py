"""docs/endpoints.md: each of its job files runs against a server that speaks its dialect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from rerank_jobs.job import run_partition
from rerank_jobs.job_file import parse_job
from rerank_jobs.score import DIALECTS, body_fields
from tests.builders import make_rows, read_output, write_rows
from tests.conftest import ROOT
from tests.unit.score.dialect_server import APIS, KEY, last_bodies, run_server, score_text

PAGE = (ROOT / "docs" / "endpoints.md").read_text(encoding="utf-8")
JOBS: dict[str, dict[str, Any]] = {
    job["name"]: job
    for job in map(
        yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    )
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_server() as url:
        yield url


def test_there_is_a_job_file_for_each_dialect() -> None:
    """The page forgets no dialect, and the server of these tests neither."""
    dialects = [job["endpoint"].get("dialect", "openrouter") for job in JOBS.values()]
    assert sorted(dialects) == sorted(DIALECTS) == sorted(JOBS) == sorted(APIS)


@pytest.mark.parametrize("name", DIALECTS)
def test_the_page_names_url_path_limit_and_options(name: str) -> None:
    """What the page says of a dialect is what its value says."""
    dialect = DIALECTS[name]
    row = next(line for line in PAGE.splitlines() if f"| `{name}` |" in line)
    path = dialect.path.replace("{model}", "MODEL")
    assert f"| `{path}` | {dialect.max_passages:,} |" in row
    assert row.endswith("| logits |" if dialect.score_kind == "logit" else "| 0 to 1 |")
    section = next(part for part in PAGE.split("\n## ") if f"\nname: {name}\n" in part)
    assert all(f"`{option}`" in section for option in dialect.options)


@pytest.mark.parametrize("name", list(JOBS))
def test_each_job_file_of_the_page_scores_a_table(
    name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With only the host replaced, the job runs to the end and publishes the server's scores."""
    data = JOBS[name]
    url = f"{server}/{name}{urlsplit(data['endpoint']['url']).path}"
    monkeypatch.setenv(data["endpoint"]["api_key_env"], KEY)
    rows = make_rows(2, 4)
    write_rows(tmp_path / "candidates.parquet", rows)
    job = parse_job({**data, "endpoint": {**data["endpoint"], "url": url}}, base=tmp_path)
    result = run_partition(job)
    assert result.generation is not None
    assert result.statuses["scored"] == len(rows)
    table = read_output(job).to_pylist()
    assert len(table) == len(rows)
    for row in table:
        assert row["rerank_score"] == score_text(row["query"], row["document"])
    assert {row["rerank_model"] for row in table} == {data["endpoint"]["model"]}
    assert body_fields(job.endpoint).items() <= last_bodies[name].items()
