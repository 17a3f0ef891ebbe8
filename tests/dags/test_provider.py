"""Airflow knows the provider: what its own commands and manager say of the built package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rerank_jobs.airflow.once import make_environment
from rerank_jobs.airflow.provider_info import get_provider_info
from tests.dags.conftest import HOME, serve_guarded
from tests.dags.leaks import find_leaks

pytestmark = pytest.mark.dags

ROOT = Path(__file__).parents[2]
KEY = "sk-or-v1-canaryquokka"

BUILD = "import sys, hatchling.build; hatchling.build.build_editable(sys.argv[1])"

ASK_MANAGER = """
import json
from airflow.providers_manager import ProvidersManager

manager = ProvidersManager()
hook = manager.hooks["openrouter"]
form = {name: widget.field for name, widget in manager.connection_form_widgets.items()}
print(json.dumps({
    "hook": [hook.hook_name, hook.hook_class_name, hook.connection_id_attribute_name],
    "fields": sorted(name for name in form if name.startswith("extra__openrouter__")),
    "behaviour": manager.field_behaviours["openrouter"],
}))
"""

Airflow = Callable[..., str]


def test_the_entry_point_names_the_provider_info() -> None:
    """pyproject.toml registers this very function, under the name of this distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (target,) = project["entry-points"]["apache_airflow_provider"].values()
    assert target == f"{get_provider_info.__module__}:{get_provider_info.__name__}"
    assert get_provider_info()["package-name"] == project["name"]


def test_the_provider_info_keeps_airflows_own_schema() -> None:
    """It is valid as Airflow checks it, and its form fields have names the hook reads."""
    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text("utf-8"))
    info = get_provider_info()
    jsonschema.validate(info, schema)
    (connection,) = info["connection-types"]
    assert set(connection["conn-fields"]) == {
        "model",
        "requests_per_minute",
        "app_url",
        "app_title",
    }
    module, _, name = connection["hook-class-name"].rpartition(".")
    hook = getattr(__import__(module, fromlist=[name]), name)
    assert (hook.conn_type, hook.hook_name) == ("openrouter", connection["hook-name"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an Airflow of this module's own."""
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def airflow(home: Path) -> Airflow:
    """Run Airflow's commands where this package is installed, as its wheel says."""
    build = [sys.executable, "-c", BUILD, str(home)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(home.glob("*.whl"))) as wheel:
        for name in wheel.namelist():
            if ".dist-info/" in name:
                wheel.extract(name, home)
    environment = make_environment(home, HOME / "dags", os.environ)
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{home}"}
    environment |= {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled", "COLUMNS": "200"}

    def run(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    run("-m", "airflow", "db", "migrate")
    return run


def find_json(text: str) -> Any:
    """Return the JSON of the one line of an output that holds some."""
    (line,) = [line for line in text.splitlines() if line.startswith(("[{", "{"))]
    return json.loads(line)


@pytest.mark.slow
def test_airflow_lists_the_provider_and_its_connection_type(airflow: Airflow) -> None:
    """`providers list` and `get` and ProvidersManager know it, and warn of nothing of ours."""
    listed = find_json(airflow("-m", "airflow", "providers", "list", "-o", "json"))
    told = airflow("-m", "airflow", "providers", "get", "rerank-jobs", "--full", "-o", "json")
    asked = airflow("-c", ASK_MANAGER)

    assert "rerank-jobs" in {row["package_name"] for row in listed}
    assert "OpenRouterHook" in told
    assert not [line for line in asked.splitlines() if "warning" in line and "rerank" in line]
    manager = find_json(asked)
    assert manager["hook"] == ["OpenRouter", "rerank_jobs.airflow.hook.OpenRouterHook", "conn_id"]
    assert manager["fields"] == [
        f"extra__openrouter__{name}"
        for name in ("app_title", "app_url", "model", "requests_per_minute")
    ]
    assert manager["behaviour"]["relabeling"] == {"host": "Base URL", "password": "API key"}


@pytest.mark.slow
def test_airflow_keeps_and_tests_a_connection(airflow: Airflow, home: Path) -> None:
    """`connections add` keeps the type, and `connections test` asks the server for the key."""
    with serve_guarded(KEY) as url:
        for name, key in (("good", KEY), ("bad", "sk-or-v1-wrong")):
            fields = ["--conn-type", "openrouter", "--conn-host", url, "--conn-password", key]
            airflow("-m", "airflow", "connections", "add", name, *fields)
        good = airflow("-m", "airflow", "connections", "test", "good")
        bad = airflow("-m", "airflow", "connections", "test", "bad", code=1)

    assert "Connection success!" in good
    assert "the key is refused" in bad
    assert find_leaks(home, [KEY, "sk-or-v1-wrong"]) == []
