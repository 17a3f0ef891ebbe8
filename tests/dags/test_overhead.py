"""What Airflow adds to a run, beside the same code without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.airflow_overhead import measure

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = [pytest.mark.dags, pytest.mark.slow, pytest.mark.alone]

MOST_SECONDS = 10.0


def test_airflow_costs_at_most_ten_seconds_more_than_a_run(dag_bag: DagBag, tmp_path: Path) -> None:
    """The demo's table by the nightly DAG, warm, takes at most 10 s more than by the command."""
    found = measure(dag_bag.dags["nightly_rerank"], tmp_path, queries=400, candidates=50)
    assert found.rows == 20_000
    assert found.difference <= MOST_SECONDS, found
