"""What reuse promises, on real runs: unchanged, grown, and day after day of a repeating log."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rerank_jobs.job import run_partition
from rerank_jobs.job_file import load_job
from tests.builders import LOG_COLUMNS
from tests.unit.cli.kit import (
    Row,
    call,
    call_json,
    make_rows,
    read_stats,
    serve,
    write_job,
    write_table,
)

Capture = pytest.CaptureFixture[str]

DAYS = 30
SEARCHES = 200
"""A day."""

CHANGED = 0.05
"""Part of the searches of a known query that bring a result which it did not have before."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint at the price of the API."""
    with serve("--scorer", "instant", "--usd-per-search", "0.001") as address:
        yield address


def make_endpoint(url: str) -> Row:
    return {"url": url, "model": "cohere/rerank-v3.5", "usd_per_search": 0.001}


def set_up(folder: Path, url: str, rows: list[Row], mode: str) -> Path:
    write_table(folder / "candidates.parquet", rows)
    return write_job(folder, {"endpoint": make_endpoint(url), "reuse": {"mode": mode}})


def grow(rows: list[Row]) -> list[Row]:
    """Return the rows with 10 % new candidates: one document more in every query of ten."""
    new = []
    for row in rows:
        if row["rank"] == 1:
            text = f"{row['text']}, unfolded anew"
            new.append({**row, "doc_id": f"new-{row['doc_id']}", "rank": 11, "text": text})
    return rows + new


@pytest.mark.parametrize("mode", ["cheapest", "strict", "off"])
def test_an_unchanged_partition_costs_nothing(
    tmp_path: Path, url: str, mode: str, capsys: Capture
) -> None:
    """A second run sends nothing, bills nothing and stays in its generation."""
    job = set_up(tmp_path, url, make_rows(4, 10), mode)
    first = call_json(capsys, "run", job)
    before = read_stats(url)
    second = call_json(capsys, "run", job)
    assert (second["requests"], second["cost_usd"]) == (0, 0.0)
    assert (second["generation"], second["manifest"]) == (1, first["manifest"])
    assert read_stats(url) == before


@pytest.mark.parametrize("mode", ["cheapest", "strict"])
def test_ten_percent_new_candidates(tmp_path: Path, url: str, mode: str, capsys: Capture) -> None:
    """A unit per query either way; strict sends only new passages; both prices are printed."""
    rows = make_rows(8, 10)
    job = set_up(tmp_path, url, rows, mode)
    call_json(capsys, "run", job)
    write_table(tmp_path / "candidates.parquet", grow(rows))
    planned = call_json(capsys, "plan", job)["plan"]["by_reuse"]
    assert {name: (one["search_units"], one["cost_usd"]) for name, one in planned.items()} == {
        "cheapest": (8, 0.008),
        "strict": (8, 0.008),
    }
    assert (planned["cheapest"]["passages"], planned["strict"]["passages"]) == (88, 8)
    told = " ".join(call(capsys, "plan", job).out.split())
    assert "cheapest $0.008, 88 passages sent; strict $0.008, 8 passages sent" in told
    assert f"(this plan: {mode})" in told
    before = read_stats(url)
    ran = call_json(capsys, "run", job)
    after = read_stats(url)
    sent = 88 if mode == "cheapest" else 8
    assert (ran["search_units"], ran["cost_usd"]) == (8, 0.008)
    assert ran["this_run"]["passages_scored"] == sent == after["passages"] - before["passages"]
    assert ran["statuses"]["reused"] == 88 - sent


def test_large_queries_that_grow_pay_for_the_difference(
    tmp_path: Path, url: str, capsys: Capture
) -> None:
    """Of 250 candidates and 25 new ones a query costs one unit, not three; cheapest sends 25."""
    rows = make_rows(2, 250)
    job = set_up(tmp_path, url, rows, "cheapest")
    call_json(capsys, "run", job)
    more = [
        {**row, "doc_id": f"new-{row['doc_id']}", "text": f"{row['text']} anew"}
        for row in rows
        if row["rank"] <= 25
    ]
    write_table(tmp_path / "candidates.parquet", rows + more)
    ran = call_json(capsys, "run", job)
    assert (ran["search_units"], ran["this_run"]["passages_scored"]) == (2, 50)
    assert ran["statuses"]["reused"] == 500


def test_a_late_input_pays_for_the_difference(tmp_path: Path, url: str, capsys: Capture) -> None:
    """A query that comes late makes a new plan, a new generation, and one unit of its own."""
    rows = make_rows(5, 10)
    job = set_up(tmp_path, url, rows[:40], "cheapest")
    first = call_json(capsys, "run", job)
    write_table(tmp_path / "candidates.parquet", rows)
    late = call_json(capsys, "run", job)
    assert late["plan_id"] != first["plan_id"]
    assert (late["generation"], late["search_units"]) == (2, 1)
    write_table(tmp_path / "candidates.parquet", rows[:40])
    assert call_json(capsys, "run", job)["requests"] == 0


def test_scores_that_are_too_old_are_paid_again(tmp_path: Path, url: str, capsys: Capture) -> None:
    """Beyond ``max_age_days`` nothing is reused; within it everything is."""
    rows = make_rows(3, 10)
    set_up(tmp_path, url, rows, "strict")
    job = tmp_path / "job.yaml"
    call_json(capsys, "run", job)
    write_table(tmp_path / "candidates.parquet", rows[:29])
    for days, reused in ((1e-9, 0), (1, 29)):
        reuse = {"mode": "strict", "max_age_days": days}
        write_job(tmp_path, {"endpoint": make_endpoint(url), "reuse": reuse})
        assert call_json(capsys, "plan", job)["passages_reused"] == reused


def draw_days(log: Path, seed: int) -> Iterator[list[Row]]:
    """Yield the searches of each day, drawn from the session log, which has no dates.

    A day has ``SEARCHES`` searches. Which query is searched is drawn by Zipf's law over the log's
    queries in an order of the seed, so that few are searched daily and many once. A known query's
    results are those of the log, but now and then (``CHANGED``) one of them is replaced for good by
    a result of another query, as if the index had changed.
    """
    draw = random.Random(seed)
    logged: list[Row] = [row for row in pq.read_table(log).to_pylist() if row["results"]]
    by_query: dict[str, Row] = {}
    for row in logged:
        by_query.setdefault(row["query"], row)
    known = list(copy.deepcopy(by_query).values())
    draw.shuffle(known)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(known) + 1)))
    for day in range(DAYS):
        searches: list[Row] = []
        for number in range(SEARCHES):
            row = draw.choices(known, cum_weights=weights)[0]
            if draw.random() < CHANGED:
                place = draw.randrange(len(row["results"]))
                other = draw.choice(draw.choice(known)["results"])
                taken = {result["doc_id"] for result in row["results"]}
                if other["doc_id"] not in taken:
                    row["results"][place] = {**other, "position": place + 1}
            searches.append({**copy.deepcopy(row), "search_id": f"{day}-{number}"})
        yield searches


@pytest.mark.slow
def test_a_log_that_repeats_costs_less_every_week(
    tmp_path: Path, url: str, shared_data: Path
) -> None:
    """30 days as 30 partitions: the last ten days cost less than half of the first ten."""
    changes: dict[str, Any] = {
        "input": {"path": "log/{partition}", "layout": "search_log", "columns": None},
        "partition": {"template": "ds={key}"},
        "endpoint": make_endpoint(url),
    }
    path = write_job(tmp_path, changes)
    text = path.read_text(encoding="utf-8")
    named = {**LOG_COLUMNS, "search_id": "search_id"}
    columns = "\n".join(f"    {name}: {value!r}" for name, value in named.items())
    path.write_text(text.replace("input:\n", f"input:\n  columns:\n{columns}\n"), encoding="utf-8")
    log = shared_data / "trec_session_log" / "search_log.parquet"
    dollars, naive = [], []
    for day, searches in enumerate(draw_days(log, seed=7), start=1):
        key = f"2026-11-{day:02d}"
        write_table(tmp_path / "log" / f"ds={key}" / "log.parquet", searches)
        result = run_partition(load_job(path), key)
        dollars.append(result.totals.cost_usd)
        naive.append(result.promise.naive_usd)
    weeks = [sum(dollars[start : start + 10]) for start in (0, 10, 20)]
    print(f"\n{SEARCHES} searches a day, {sum(naive) / DAYS:.3f} $ a day without reuse")
    print("  dollars per day: " + " ".join(f"{usd:.3f}" for usd in dollars))
    print("  per ten days:    " + " ".join(f"{usd:.3f}" for usd in weeks))
    assert weeks[0] > weeks[1] > weeks[2]
    assert weeks[2] < weeks[0] / 2
    assert sum(dollars) < sum(naive) / 4
