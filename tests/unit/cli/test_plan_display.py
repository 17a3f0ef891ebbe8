"""What ``rerank-jobs plan`` prints of prices."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rerank_jobs.cli.display import print_promise
from rerank_jobs.cli.run import describe_plan
from rerank_jobs.config import Job
from rerank_jobs.job import Planned, preview_partition, run_partition
from tests.builders import make_job, make_rows, write_rows
from tests.unit.plan.kit import make_ambiguous_text, make_row

API = {"url": "http://127.0.0.1:9/api/v1"}


def show(job: Job) -> tuple[Planned, str]:
    """Plan a job; return the plan and what is printed, on one line a row."""
    planned = preview_partition(job)
    out = io.StringIO()
    print_promise(Console(file=out, width=400, highlight=False), job, planned)
    return planned, "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def write_log(folder: Path) -> None:
    """Write two groups of one query and a query of one candidate: 81 rows."""
    rows = make_rows(1, 40)
    again = [{**row, "query_id": "again"} for row in rows]
    single = {**rows[0], "query_id": "single", "query": "another lamp"}
    write_rows(folder / "candidates.parquet", [*rows, *again, single])


def test_the_naive_price_has_one_line(tmp_path: Path) -> None:
    """Naive price, what saves how much of it, and the price that stays: all in dollars."""
    write_log(tmp_path)
    _, text = show(make_job(tmp_path, endpoint=API))
    assert (
        "Naive price  $0.003 (one request per group as it stands);"
        " single candidates save $0.001, deduplication saves $0.001\n"
    ) in text
    assert "Price        $0.001, at most $0.00905 with retries\n" in text


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ({}, "Naive price  $0.003 (one request"),
        ({**API, "usd_per_search": 0}, "Naive price  3 units (one request"),
        ({**API, "usd_per_million_tokens": 0.02}, "deduplication saves $0.0000"),
    ],
)
def test_the_naive_price_is_in_what_is_paid(
    tmp_path: Path, endpoint: dict[str, Any], line: str
) -> None:
    """The embedded endpoint shows the API's dollars, a free one units, small sums six decimals."""
    write_log(tmp_path)
    assert line in show(make_job(tmp_path, endpoint=endpoint))[1]


def test_reuse_and_limits_are_named(tmp_path: Path) -> None:
    """What is reused is a saving; a split that the context forces is named as what it adds."""
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 30))
    run_partition(make_job(tmp_path))
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 30, seed=1))
    context = {"tokens": 128, "overlap_tokens": 16, "scope": "request"}
    assert "limits on a request add $0.0" in show(make_job(tmp_path, context=context))[1]
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 30)[:40])
    assert "; reuse saves $0.002\n" in show(make_job(tmp_path))[1]


def test_both_readings_are_printed_where_they_differ(tmp_path: Path) -> None:
    """A table whose units depend on the reading prints both totals, others do not."""
    write_rows(tmp_path / "candidates.parquet", make_rows(1, 100))
    assert "(I1)" not in show(make_job(tmp_path, endpoint=API))[1]
    text = make_ambiguous_text("solar lamp")
    rows = [make_row("solar lamp", f"{text} {number}", number=number) for number in range(100)]
    write_rows(tmp_path / "candidates.parquet", rows)
    planned, text = show(make_job(tmp_path, endpoint=API))
    once, carried = planned.promise.units_by_reading.values()
    assert once < carried == planned.promise.search_units
    assert f"{once} search units, ${(carried - once) / 1000:.3f} less" in text


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "at 1,000 requests a minute"),
        ({"tokens_per_minute": 100}, "at 100 tokens a minute"),
        ({"requests_per_minute": 1, "tokens_per_minute": 10**9}, "at 1 requests a minute"),
    ],
)
def test_the_limit_that_sets_the_time_is_named(
    tmp_path: Path, limits: dict[str, Any], words: str
) -> None:
    """The time is printed with the limit that it follows from."""
    write_log(tmp_path)
    assert words in show(make_job(tmp_path, endpoint={**API, **limits}))[1]


def test_json_has_every_figure(tmp_path: Path) -> None:
    """Plan --json holds tokens, naive figures, each saving and both readings."""
    write_log(tmp_path)
    job = make_job(tmp_path, endpoint=API)
    planned = preview_partition(job)
    found = describe_plan(job, planned)
    assert found["tokens"] == found["plan"]["tokens"] == planned.promise.tokens > 0
    assert found["plan"]["naive_units"] == 3
    assert found["plan"]["savings"]["deduplication"]["cost_usd"] == 0.001
    assert found["plan"]["units_by_reading"] == {"I1": 1, "I2": 1}
