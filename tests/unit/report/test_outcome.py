"""The figures and lines that close a run."""

from __future__ import annotations

from typing import Any

import pytest

from rerank_jobs.report.movement import Movement
from rerank_jobs.report.outcome import describe_outcome, measure_use, summarise_ranking

FIGURES: dict[str, Any] = {
    "partition": "2026-11-22",
    "generation": 3,
    "rows": 20_000,
    "rows_rejected": 7,
    "requests": 410,
    "search_units": 400,
    "cost_usd": 0.4,
    "throttled": 10,
    "limit_utilisation": 0.987,
    "paid_requests": 500,
    "paid_usd": 0.5,
}
MOVED = Movement(400, 400, 20_000, 0, 0.53, 0.9, 10.9, 0.57)


def sends(start: float, seconds: float, requests: int, throttled: int = 0) -> dict[str, Any]:
    """Return a task's sends under a limit of ten a second."""
    return {
        "requests": requests,
        "throttled": throttled,
        "sends_allowed": 10 * seconds,
        "started_at": start,
        "seconds": seconds,
    }


def test_use_is_what_was_accepted_of_what_was_allowed() -> None:
    """429s do not count as used; each task's own limit holds for its own time."""
    assert measure_use([sends(0, 10, 90), sends(5, 10, 110, throttled=20)], shared=False) == 0.9
    assert measure_use([], shared=False) is None
    assert measure_use([{**sends(0, 10, 5), "sends_allowed": 0.0}], shared=True) is None


def test_a_shared_limit_counts_time_once() -> None:
    """Tasks side by side under one limit share it: 10 to 20 s of two tasks is ten seconds of it."""
    side_by_side = [sends(0, 20, 120), sends(10, 20, 120), sends(40, 10, 60)]
    assert measure_use(side_by_side, shared=True) == 300 / 400
    assert measure_use(side_by_side, shared=False) == 300 / 500


@pytest.mark.parametrize(
    ("ranking", "figures"),
    [
        (None, {}),
        ({"groups": 3, "top1_changed": 1}, {"queries_ranked": 3, "top1_changed": 0.3333}),
        ({"groups": 0, "top1_changed": 0}, {"queries_ranked": 0, "top1_changed": 0.0}),
    ],
)
def test_a_manifests_counts_become_a_share(
    ranking: dict[str, int] | None, figures: dict[str, Any]
) -> None:
    """An earlier version's manifest has none; no query to rank is no change."""
    assert summarise_ranking(ranking) == figures


def test_the_closing_lines_say_what_was_sent_paid_and_moved() -> None:
    """Four lines, in this order, without judgements."""
    assert describe_outcome(FIGURES, MOVED, None).splitlines() == [
        "Partition 2026-11-22, generation 3: 20,000 rows, 7 put aside",
        (
            "Sent: 410 requests, 400 search units, $0.40; 10 throttled (429); 98.7% of the"
            " rate limit used"
        ),
        "Paid: $0.50 for 500 requests, over all tries of this generation",
        (
            "Moved: The first result changed in 53% of 400 queries; a document moved 10.9 places on"
            " average; 57% of the first ten stayed there."
        ),
    ]


def test_a_run_that_sent_nothing_says_so() -> None:
    """Neither limit nor 429 is spoken of; a table replaced meanwhile is not measured."""
    idle = FIGURES | {"requests": 0, "limit_utilisation": None, "rows_rejected": 0}
    lines = describe_outcome(idle, None, None).splitlines()
    assert lines[0].endswith("20,000 rows")
    assert lines[1] == "Sent: nothing: every score was there already"
    assert lines[3] == "Moved: replaced before it was measured"
