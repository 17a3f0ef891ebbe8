"""OpenLineage events of a real run, as Airflow's own provider sends them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.airflow.once import make_environment
from tests.dags.conftest import CANARY, HOME, Table

pytestmark = [pytest.mark.dags, pytest.mark.slow]

SECONDS = 300.0


def run_with_lineage(table: Table, events: Path) -> list[dict[str, Any]]:
    """Run the DAG of one's own in a process of its own; return the events of ``publish``."""
    home = table.folder / "airflow"
    home.mkdir()
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    environment = make_environment(home, HOME / "dags", os.environ) | {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "shop",
    }
    conf = json.dumps({"job": str(table.job_file), "region": "eu"})
    command = [sys.executable, "-P", "-m", "rerank_jobs.airflow.once", "own_rerank"]
    command += ["--conf", conf, "--run-after", "2026-11-21T00:00:00+00:00"]
    command += ["--result", str(home / "result")]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return [one for one in found if one["job"]["name"] == "own_rerank.relevance.publish"]


@pytest.mark.skipif(
    importlib.util.find_spec("openlineage") is None,
    reason="apache-airflow-providers-openlineage is not installed",
)
def test_a_published_partition_tells_its_datasets(
    make_table: Callable[..., Table], tmp_path: Path
) -> None:
    """The last event of publish names the input and the output folder, with counts and columns."""
    table = make_table("eu|2026-11-21")
    events = tmp_path / "events.json"

    said = {one["eventType"]: one for one in run_with_lineage(table, events)}

    assert set(said) == {"START", "COMPLETE"}
    (source,), (output,) = said["COMPLETE"]["inputs"], said["COMPLETE"]["outputs"]
    folder = "ds=eu|2026-11-21"
    parts = list((tmp_path / "out" / folder).glob("*.parquet"))
    assert (source["namespace"], source["name"]) == ("file", str(tmp_path / "in" / folder))
    assert (output["namespace"], output["name"]) == ("file", str(tmp_path / "out" / folder))
    rows = table.queries * table.documents
    read, written = source["inputFacets"]["inputStatistics"], output["outputFacets"]
    assert (read["rowCount"], read["fileCount"]) == (rows, 1)
    assert written["outputStatistics"]["rowCount"] == rows
    assert written["outputStatistics"]["fileCount"] == len(parts)
    assert written["outputStatistics"]["size"] == sum(part.stat().st_size for part in parts)
    columns = {field["name"]: field["type"] for field in output["facets"]["schema"]["fields"]}
    assert columns["rerank_score"] == "double"
    assert CANARY not in events.read_text(encoding="utf-8")
