"""What every process of the cluster is told: ports, secrets and Airflow's settings."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from cryptography.fernet import Fernet

from rerank_jobs.airflow.once import find_dags_folder, make_environment
from tests.cluster.processes import ROOT

__all__ = ["HOST", "USER", "Plan", "make_plan", "make_settings", "read_host_name"]

HOST = "127.0.0.1"
USER = "admin"
NAME = "CLUSTER_PROCESS"
"""The variable that names the process of the cluster that a process belongs to."""

TASKS_PER_WORKER = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """One cluster before it runs: its folder, its free ports, its secrets."""

    folder: Path
    dags: Path
    postgres: int
    redis: int
    api: int
    endpoint: int
    password: str = field(repr=False)
    fernet_key: str = field(repr=False)
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Airflow's home, in which task logs are."""
        return self.folder / "airflow"

    @property
    def logs(self) -> Path:
        """Where the output of each process is."""
        return self.folder / "logs"

    @property
    def url(self) -> str:
        """The address of UI and API."""
        return f"http://{HOST}:{self.api}"

    @property
    def endpoint_url(self) -> str:
        """The address for ``endpoint.url``."""
        return f"http://{HOST}:{self.endpoint}/api/v1"

    @property
    def limit_store(self) -> str:
        """The address for ``endpoint.limit_store``: a database beside the broker's."""
        return f"redis://{HOST}:{self.redis}/1"

    @property
    def database(self) -> str:
        """The address of the database as SQLAlchemy wants it, with its password."""
        return f"postgresql+psycopg2://airflow:{self.password}@{HOST}:{self.postgres}/postgres"


def make_plan(
    folder: Path, *, dags: Path | None = None, variables: Mapping[str, str] | None = None
) -> Plan:
    """Choose ports and secrets; ``dags`` is a folder of DAG files, by default those we ship."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(4)]
        postgres, redis, api, endpoint = (one.getsockname()[1] for one in held)
    return Plan(
        folder=folder.resolve(),
        dags=(dags or find_dags_folder()).resolve(),
        postgres=postgres,
        redis=redis,
        api=api,
        endpoint=endpoint,
        password=secrets.token_urlsafe(12),
        fernet_key=Fernet.generate_key().decode(),
        variables=dict(variables or {}),
    )


def make_settings(plan: Plan) -> dict[str, str]:
    """Return the environment of all of Airflow's processes, and write the file of its users.

    Short intervals, and no DAG starts by itself: it serves tests and demonstrations.
    docs/cluster.md says what matters where it is meant to last.
    """
    users = plan.home / "users.json"
    users.write_bytes(orjson.dumps({USER: plan.password}))
    users.chmod(0o600)
    inherited = make_environment(plan.home, plan.dags, os.environ)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    sections = {
        "API": {
            "BASE_URL": plan.url,
            "HOST": HOST,
            "PORT": str(plan.api),
            "SECRET_KEY": secrets.token_urlsafe(24),
            "WORKERS": "1",
        },
        "API_AUTH": {"JWT_SECRET": secrets.token_urlsafe(48)},
        "CELERY": {
            "BROKER_URL": f"redis://{HOST}:{plan.redis}/0",
            "RESULT_BACKEND": f"db+{plan.database}",
            "WORKER_CONCURRENCY": str(TASKS_PER_WORKER),
        },
        "CELERY_BROKER_TRANSPORT_OPTIONS": {"VISIBILITY_TIMEOUT": "3600"},
        "CORE": {
            "DAGS_ARE_PAUSED_AT_CREATION": "False",
            "EXECUTION_API_SERVER_URL": f"{plan.url}/execution/",
            "EXECUTOR": "CeleryExecutor",
            "FERNET_KEY": plan.fernet_key,
            "HOSTNAME_CALLABLE": f"{__name__}.read_host_name",
            "PARALLELISM": "32",
            "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(users),
            "SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        },
        "DAG_PROCESSOR": {"REFRESH_INTERVAL": "5"},
        "DATABASE": {"SQL_ALCHEMY_CONN": plan.database},
        "SCHEDULER": {
            "SCHEDULER_HEARTBEAT_SEC": "1",
            "SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "TASK_INSTANCE_HEARTBEAT_TIMEOUT": "12",
            "TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            # A run of last night, which has no table here, would keep others waiting.
            "USE_JOB_SCHEDULE": "False",
        },
        "WORKERS": {"EXECUTION_API_TIMEOUT": "60", "MIN_HEARTBEAT_INTERVAL": "1"},
    }
    ours = {
        f"AIRFLOW__{section}__{key}": value
        for section, values in sections.items()
        for key, value in values.items()
    }
    return inherited | {"NO_PROXY": "*", "PYTHONPATH": path} | ours | dict(plan.variables)


def read_host_name() -> str:
    """Return the name of this process of the cluster: all of them share the machine's name.

    Airflow keeps it with each task instance (``[core] hostname_callable``).
    """
    return os.environ.get(NAME, socket.gethostname())
