"""Budgets of a day and a month from the command line: over partitions, processes and midnight."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.storage import LocalStore
from tests.unit.cli.kit import (
    JOB,
    call,
    call_json,
    make_rows,
    merge,
    read_stats,
    serve,
    write_job,
    write_table,
)
from tests.unit.ledger.kit import age_spending

Capture = pytest.CaptureFixture[str]

DAY = 86_400
PARTITIONS = ("a", "b")
TIMEOUT = 120

PLANS_THEN_WAITS = """
import json, sys
from pathlib import Path
from rerank_jobs.errors import BudgetStop
from rerank_jobs.job import plan_partition, score_partition_shard
from rerank_jobs.job_file import load_job
job = load_job(Path(sys.argv[1]))
plan = plan_partition(job, sys.argv[2]).plan
print("planned", flush=True)
sys.stdin.readline()
try:
    score_partition_shard(job, plan, 0)
    print("done")
except BudgetStop as stop:
    print(stop)
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint at the price that jobs plan with."""
    with serve("--scorer", "instant", "--latency-ms", "20") as address:
        yield address


def set_up(folder: Path, url: str, budget: dict[str, float], queries: int = 4) -> Path:
    """Write two partitions of as many requests as queries, and their job; return the job file."""
    for number, partition in enumerate(PARTITIONS):
        rows = make_rows(queries)
        for row in rows:
            row["query"] += f" of {number} in {folder.name}"  # a server counts repeated pairs
        write_table(folder / f"in/ds={partition}/candidates.parquet", rows)
    return write_job(folder, describe(url, budget))


def describe(url: str, budget: dict[str, float], **endpoint: Any) -> dict[str, Any]:
    """Return what differs from the tests' usual job."""
    return {
        "input": merge(JOB["input"], {"path": "in/{partition}"}),
        "partition": {"template": "ds={key}"},
        "endpoint": {"url": url, "requests_per_minute": 60_000, **endpoint},
        "budget": budget,
    }


def test_one_budget_holds_for_all_partitions_together(
    tmp_path: Path, capsys: Capture, url: str
) -> None:
    """What partition a spent is gone for b: nothing of b is sent or frozen until more is allowed.

    Two plans of $0.004, at most $0.0122 with retries, do not fit into $0.016 one after the other.
    """
    job = set_up(tmp_path, url, {"max_usd_per_day": 0.016, "max_usd_per_month": 1})
    assert call_json(capsys, "run", job, "--partition", "a")["cost_usd"] == 0.004
    before = read_stats(url)
    words = ("budget.max_usd_per_day", "$0.004 of $0.016 spent today", "$0.0122", "00:00 UTC")
    call(capsys, "run", job, "--partition", "b").assert_says(3, *words)
    call(capsys, "plan", job, "--partition", "b").assert_says(3, *words)
    assert read_stats(url) == before
    assert not list(tmp_path.glob("out.state/b/plan/*"))
    assert call(capsys, "run", job, "--partition", "a").code == 0
    job = write_job(tmp_path, describe(url, {"max_usd_per_day": 0.0162}))
    assert call_json(capsys, "run", job, "--partition", "b")["cost_usd"] == 0.004


def test_plan_prints_what_is_spent(tmp_path: Path, capsys: Capture, url: str) -> None:
    """With such a budget the plan has a line for it, and ``--json`` the dollars of day and month.

    What is published already counts; without a budget there is neither.
    """
    job = set_up(tmp_path, url, {"max_usd_per_day": 1, "max_usd_per_month": 2.5})
    call_json(capsys, "run", job, "--partition", "a")
    printed = call(capsys, "plan", job, "--partition", "b").out
    line = "$0.004 of $1.00 spent today, $0.004 of $2.50 spent this month"
    assert [row.split(maxsplit=1)[1] for row in printed.splitlines() if "Budget" in row] == [line]
    plan = call_json(capsys, "plan", job, "--partition", "b")["plan"]
    assert (plan["spent_today_usd"], plan["spent_month_usd"]) == (0.004, 0.004)
    job = write_job(tmp_path, describe(url, {}))
    assert "Budget" not in call(capsys, "plan", job, "--partition", "b").out
    plan = call_json(capsys, "plan", job, "--partition", "b")["plan"]
    assert (plan["spent_today_usd"], plan["spent_month_usd"]) == (None, None)


def test_a_run_stops_at_the_end_of_a_days_money_and_goes_on_the_next_day(
    tmp_path: Path, capsys: Capture
) -> None:
    """A server that takes twice the price uses up the day, whatever ``--extra-usd`` allows.

    Each day spends its budget and at most one reply's drift, names the budget, exits 3, and sends
    nothing more; the days together pay each request once.
    """
    queries, limit = 20, 0.0295
    with serve("--scorer", "instant", "--usd-per-search", "0.002") as dear:
        job = set_up(tmp_path, dear, {}, queries)
        job = write_job(tmp_path, describe(dear, {"max_usd_per_day": limit}, max_concurrency=1))
        command = ("run", job, "--partition", "a", "--extra-usd", "1")
        state = LocalStore(str(tmp_path / "out.state"))
        call(capsys, *command).assert_says(3, "max_usd_per_day", "$0.0295 that was left", "anew at")
        sent = read_stats(dear)["requests"]
        assert limit < sent * 0.002 + 0.001 <= limit + 0.002
        call(capsys, *command).assert_says(3, "budget.max_usd_per_day", "$0.00 that was left")
        assert read_stats(dear)["requests"] == sent
        age_spending(state, DAY)
        assert call_json(capsys, *command)["requests"] == queries - sent
        assert read_stats(dear)["pairs_repeated"] == 0


def start(job: Path, partition: str) -> subprocess.Popen[str]:
    """Start a process that plans a partition, says so, and scores it when it is told to."""
    command = [sys.executable, "-c", PLANS_THEN_WAITS, str(job), partition]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until_planned(*processes: subprocess.Popen[str]) -> None:
    """Wait until every process has frozen its plan."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "planned\n"


def let_go(*processes: subprocess.Popen[str]) -> None:
    """Tell every process to score, one right after the other."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


@pytest.mark.parametrize("limit", [0.06, 0.1])
def test_two_processes_that_score_at_once_do_not_pass_one_budget(
    tmp_path: Path, capsys: Capture, url: str, limit: float
) -> None:
    """Each plan of $0.04, $0.05 with retries, fits into $0.06, both do not: together they stop.

    Both have planned before either claims, so that only the claims can keep them apart. Where both
    fit, both finish. What is left then can be used, but for a plan's slack, and is not passed.
    """
    job = set_up(tmp_path, url, {"max_usd_per_day": limit}, queries=40)
    before = read_stats(url)
    with start(job, "a") as one, start(job, "b") as two:
        wait_until_planned(one, two)
        let_go(one, two)
        said = [process.communicate(timeout=TIMEOUT)[0] for process in (one, two)]
    spent = (read_stats(url)["search_units"] - before["search_units"]) * 0.001
    assert spent <= limit
    if limit == 0.1:
        assert said == ["done\n"] * 2
        return
    assert [text for text in said if "budget.max_usd_per_day" in text]
    assert spent >= 2 * (limit - 0.05) - 0.002
    for partition in PARTITIONS:
        call(capsys, "run", job, "--partition", partition)
    after = read_stats(url)
    assert limit - 0.011 <= (after["search_units"] - before["search_units"]) * 0.001 <= limit
    assert after["pairs_repeated"] == before["pairs_repeated"]


def test_a_killed_process_keeps_nobody_from_what_it_had_reserved(
    tmp_path: Path, capsys: Capture, url: str
) -> None:
    """After SIGKILL only what was sealed is spent; its reservation ends with the process."""
    job = set_up(tmp_path, url, {"max_usd_per_day": 0.05}, queries=40)
    with start(job, "a") as one:
        wait_until_planned(one)
        let_go(one)
        while not list(tmp_path.glob("out.state/a/run/*/*/claim/*.beat")):
            assert one.poll() is None
        one.kill()
    outcome = call(capsys, "plan", job, "--partition", "b", "--json")
    assert "reserved" not in outcome.err
    assert json.loads(outcome.out)["plan"]["spent_today_usd"] < 0.04
