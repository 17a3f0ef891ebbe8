"""What a run tells of its sends: figures that add up, and lines only where there is something."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rerank_jobs.cli.figures import describe_sending, list_sending
from rerank_jobs.job import run_partition
from rerank_jobs.model import ScoreTotals, Tally
from rerank_jobs.score.latency import classify_latency
from tests.builders import make_job, write_rows

QUIET = ScoreTotals(
    requests=100,
    replies=100,
    search_units=100,
    planned_units=100,
    cost_usd=0.1,
    latencies=Tally.of(Counter(map(classify_latency, [0.1] * 98 + [2.0] * 2))),
    planned_by_script=Tally.of({"latin": 60, "han": 40}),
    reported_by_script=Tally.of({"latin": 60, "han": 40}),
)


def test_a_quiet_run_has_one_line() -> None:
    """Without trouble, waste and drift only the latencies are told, within 5 % of the true ones."""
    (line,) = list_sending(QUIET)
    assert line.startswith("Latency: p50 0.10 s, p95 0.10 s, p99 2.")
    assert "limit" not in line
    assert list(list_sending(ScoreTotals())) == []


def test_drift_is_told_by_script() -> None:
    """Units beyond the plan are told in all and for each script that has some."""
    drifted = QUIET.plus(
        ScoreTotals(
            requests=10,
            search_units=18,
            planned_units=11,
            planned_by_script=Tally.of({"han": 10, "thai": 1}),
            reported_by_script=Tally.of({"han": 18}),
        )
    )
    assert list(list_sending(drifted))[-1] == "Units: +7 against the plan (han +8, thai -1)"
    figures = describe_sending(drifted)
    assert figures["drift_units"] == 7
    assert figures["drift_by_script"] == {"han": 8, "thai": -1}


def test_trouble_and_waste_are_told_where_there_was_some() -> None:
    """Retries, 429s, lost and unusable replies, refusals, and the dollars that went with them."""
    troubled = ScoreTotals(
        requests=110,
        retries=7,
        throttled=2,
        lost=3,
        malformed=1,
        refused=4,
        wasted_usd=0.001,
        unknown_usd=0.003,
    )
    trouble, waste = list_sending(troubled)
    for words in ("7 sent again", "2 throttled", "3 lost", "1 with a reply", "4 refused"):
        assert words in trouble
    assert "$0.001 paid for replies that could not be used" in waste
    assert "$0.003" in waste


def test_utilisation_is_the_share_of_what_the_limit_allowed() -> None:
    """Refused sends do not count as used; without a limit there is no such share."""
    used = ScoreTotals(requests=102, throttled=2, sends_allowed=125.0)
    assert used.utilisation == pytest.approx(0.8)
    assert describe_sending(used)["limit_utilisation"] == 0.8
    assert QUIET.utilisation is None


def test_a_run_counts_its_units_by_script(tmp_path: Path) -> None:
    """Each request's units are filed under the writing of its documents."""
    texts = {"a": "running shoe for the road", "b": "东京的天气预报说明天有雨"}
    rows = [
        {
            "query_id": query,
            "query": f"{text} {query}",
            "document_id": f"{query}{number}",
            "document": f"{text} {number}",
            "first_stage_score": 1.0,
        }
        for query, text in texts.items()
        for number in range(3)
    ]
    write_rows(tmp_path / "candidates.parquet", rows)
    totals = run_partition(make_job(tmp_path)).totals
    assert totals.planned_by_script == Tally.of({"latin": 1, "han": 1})
    assert totals.reported_by_script == Tally.of({"latin": 1, "han": 1})
