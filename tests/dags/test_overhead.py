"""What Airflow adds to a run, beside the same code without it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.airflow_overhead import measure

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.dags, pytest.mark.slow, pytest.mark.alone]

MOST_SECONDS = 10.0


def test_airflow_costs_at_most_ten_seconds_more_than_a_run(dag_bag: DagBag, tmp_path: Path) -> None:
    """The demo's table by the nightly DAG, warm, takes at most 10 s more than by the command.

    Of up to three rounds one must: what the machine does besides is not Airflow's.
    """
    rounds = measure(dag_bag.dags["nightly_rerank"], tmp_path, queries=400, candidates=50)
    seen = []
    for found in itertools.islice(rounds, 3):
        assert found.rows == 20_000
        seen.append(found)
        if found.difference <= MOST_SECONDS:
            return
    pytest.fail(f"more than {MOST_SECONDS} s in every round: {seen}")
