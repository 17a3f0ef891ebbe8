"""docker/: what Docker Compose and hadolint say of it, both from Python wheels; no engine runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rerank_jobs.job_file import load_job
from rerank_jobs.report.demo_table import DOCUMENT_FIELDS

TOP = Path(__file__).parents[2]
DOCKER = TOP / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
REQUIRED = re.findall(r"^([A-Z][A-Z_0-9]*)=$", (DOCKER / ".env.example").read_text(), re.MULTILINE)
OPTIONAL = {"OPENROUTER_API_KEY"}
SECRET_NAMES = re.compile(r"PASSWORD$|SECRET|KEY|CONN$|BROKER_URL|RESULT_BACKEND|AUTH$")
ONE_SHOT = {"airflow-init"}


def find_tool(name: str) -> str:
    """Return the path of a wheel's program, also where its environment is not active."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed: it comes with the extra dev")
    return found


def compose(
    folder: Path, values: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run ``docker-compose config`` with exactly these variables."""
    env_file = folder / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    command = [find_tool("docker-compose"), "--env-file", str(env_file)]
    command += ["-f", str(DOCKER / "compose.yaml"), "config", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def fill() -> dict[str, str]:
    return {name: f"canary-{name.lower()}" for name in REQUIRED}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return all services as Compose resolves them."""
    done = compose(tmp_path_factory.mktemp("compose"), fill(), "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_compose_accepts_the_file_with_the_env_file_filled_in(tmp_path: Path) -> None:
    """``docker-compose config -q`` says nothing once every required variable has a value."""
    done = compose(tmp_path, fill(), "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_compose_refuses_a_missing_variable(tmp_path: Path) -> None:
    """Without the required variables nothing starts, and each of them is named."""
    done = compose(tmp_path, {}, "-q")
    assert done.returncode == 1
    refused = set(re.findall(r"required variable ([A-Z_0-9]+) is missing", done.stderr))
    assert refused == set(REQUIRED) - OPTIONAL


def test_every_variable_of_the_compose_file_stands_in_the_example() -> None:
    """Whoever copies .env.example sees every variable that compose.yaml reads, and none besides."""
    compose_file = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    example = (DOCKER / ".env.example").read_text(encoding="utf-8")
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_0-9]+)", compose_file)) - {"RERANK_JOBS_TAG"}
    assert asked == set(re.findall(r"^#?([A-Z][A-Z_0-9]*)=", example, re.MULTILINE))
    demanded = set(re.findall(r"(?<!\$)\$\{([A-Z_0-9]+):\?", compose_file))
    assert demanded == set(REQUIRED) - OPTIONAL


def test_the_whole_topology_is_there(services: dict[str, Any]) -> None:
    """Postgres, Redis, S3, Airflow's five services, two workers, the endpoint and one init."""
    airflow = {"api-server", "scheduler", "dag-processor", "triggerer", "airflow-init"}
    others = {"postgres", "redis", "s3", "worker-1", "worker-2", "endpoint"}
    assert set(services) == airflow | others
    executors = {
        services[name]["environment"]["AIRFLOW__CORE__EXECUTOR"]
        for name in (airflow | {"worker-1", "worker-2"})
    }
    assert executors == {"CeleryExecutor"}


def test_every_service_has_a_health_check_or_ends_by_itself(services: dict[str, Any]) -> None:
    """What stays has a check of its own; what does not is waited for until it has succeeded."""
    assert {name for name, one in services.items() if "healthcheck" not in one} == ONE_SHOT
    waits = [
        (waited, rule["condition"])
        for one in services.values()
        for waited, rule in one.get("depends_on", {}).items()
    ]
    for waited, condition in waits:
        wanted = "service_completed_successfully" if waited in ONE_SHOT else "service_healthy"
        assert condition == wanted, waited
    assert {"postgres", "redis", "s3", "endpoint", "api-server", "airflow-init"} == {
        waited for waited, _ in waits
    }


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    """No port of the topology can be reached from another machine."""
    published = [port for one in services.values() for port in one.get("ports", [])]
    assert {port["target"] for port in published} == {8080, 8333, 8787}
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    assert not any(one.get("network_mode") for one in services.values())


def test_every_service_is_bounded_and_cannot_gain_rights(services: dict[str, Any]) -> None:
    """Each has a limit of memory and CPUs and gains no privileges; ours has no capability."""
    for name, one in services.items():
        limits = one["deploy"]["resources"]["limits"]
        assert {"cpus", "memory"} <= set(limits), name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one.get("privileged") is None, name
        if "build" in one:
            assert one["cap_drop"] == ["ALL"], name


def test_no_secret_stands_in_the_files(services: dict[str, Any]) -> None:
    """Whatever is a secret by its name comes from the env file, in which the example has none."""
    for name, one in services.items():
        for variable, value in one.get("environment", {}).items():
            if SECRET_NAMES.search(variable) and value:
                assert "canary-" in value or value == "/opt/airflow/auth/passwords.json", (
                    name,
                    variable,
                )
    assert len(REQUIRED) == 9


def test_foreign_images_are_pinned_by_digest(services: dict[str, Any]) -> None:
    """Every image that is pulled, and the Dockerfile's base, is named by tag and digest."""
    pulled = [one["image"] for one in services.values() if "build" not in one]
    base = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(base) == 1
    for image in [*pulled, *base]:
        assert re.fullmatch(r"[a-z/]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", image), image
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_hadolint_finds_nothing() -> None:
    """The Dockerfile is clean by hadolint's rules, with none of them ignored."""
    done = subprocess.run(
        [find_tool("hadolint"), str(DOCKER / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE


def test_the_final_stage_installs_nothing_and_is_not_root() -> None:
    """The last stage copies what was built, removes pip, and ends as a user without rights."""
    final = DOCKERFILE.rpartition("FROM ")[2]
    assert "pip install" not in final
    assert "apt-get" not in final
    assert re.search(r"pip uninstall --yes .*\bpip\b", final)
    assert re.findall(r"^USER (\S+)$", final, re.MULTILINE) == ["10001:10001"]
    installs = re.findall(r"pip --python \S+ install ([^&]+)", DOCKERFILE.replace("\\\n", " "))
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)
    assert all("--no-deps" in one for one in installs)
    assert len(installs) == 3


def test_what_the_image_copies_exists_and_is_let_through() -> None:
    """Each COPY of the build names a path of the source tree that the ignore file lets through."""
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    for source in sources:
        assert (TOP / source).exists(), source
        assert source.split("/")[0] in allowed, source


def test_the_pins_of_the_image_hold_every_requirement_by_hash() -> None:
    """Each pin of the cluster is of one version and has a hash; providers and drivers are there."""
    text = (TOP / "requirements" / "cluster.txt").read_text(encoding="utf-8")
    pins = [pin for pin in text.replace("\\\n", " ").splitlines() if pin.strip()]
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)
    names = {re.split(r"[\[=]", pin)[0] for pin in pins}
    assert {"apache-airflow-providers-celery", "apache-airflow-providers-postgres"} <= names
    assert {"redis", "uvicorn", "wordllama", "psycopg2-binary"} <= names


def test_the_example_job_loads_and_reads_the_demo_table() -> None:
    """The nightly job of the topology is valid, and its columns are those of the demo's table."""
    job = load_job(DOCKER / "jobs" / "nightly.yaml")
    assert job.output_root == "s3://rerank/nightly"
    assert job.endpoint.limit_store == "redis://redis:6379/1"
    written = yaml.safe_load((DOCKER / "jobs" / "nightly.yaml").read_text(encoding="utf-8"))
    assert tuple(written["input"]["columns"]["document"]) == DOCUMENT_FIELDS
