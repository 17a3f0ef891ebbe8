"""The publish operator and the plugin as Airflow sees them, without a run."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.plugins_manager import AirflowPlugin

from rerank_jobs.airflow.operators import REPORT_PREFIX, PublishOperator, RunReportLink
from rerank_jobs.airflow.plugin import RerankPlugin

pytestmark = pytest.mark.dags

ROOT = Path(__file__).parents[2]

LIGHT = """
import sys
import airflow.plugins_manager, airflow.sdk
before = set(sys.modules)
import rerank_jobs.airflow.plugin
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


@pytest.mark.parametrize(
    ("base_url", "root"),
    [("http://127.0.0.1:8080", ""), ("https://shop.example/airflow/", "/airflow"), ("", "")],
)
def test_the_link_is_a_path_below_the_servers(
    monkeypatch: pytest.MonkeyPatch, base_url: str, root: str
) -> None:
    """It names DAG, run and task, quoted, and no host: the browser stays where it is."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    key: Any = SimpleNamespace(
        dag_id="a", run_id="manual__2026-11-22T00:00:00+00:00", task_id="g.t"
    )
    operator = PublishOperator(task_id="publish", job="job.yaml", plan={}, scored=[])

    link = RunReportLink().get_link(operator, ti_key=key)

    quoted = "manual__2026-11-22T00%3A00%3A00%2B00%3A00"
    assert link == f"{root}/rerank/runs/a/{quoted}/g.t"
    assert [one.name for one in operator.operator_extra_links] == ["Run report"]


def test_the_plugin_is_registered_and_serves_where_links_lead() -> None:
    """pyproject.toml names this very class; its one application is below the links' prefix."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (target,) = project["entry-points"]["airflow.plugins"].values()
    assert target == f"{RerankPlugin.__module__}:{RerankPlugin.__name__}"
    assert issubclass(RerankPlugin, AirflowPlugin)
    (served,) = RerankPlugin.fastapi_apps
    assert served["url_prefix"] == REPORT_PREFIX


@pytest.mark.slow
def test_loading_the_plugin_costs_no_other_package() -> None:
    """Workers and the dag-processor load it too: FastAPI and Arrow stay out until a request."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", LIGHT], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["rerank_jobs"]
