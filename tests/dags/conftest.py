"""An Airflow of the tests' own: it must be set up before anything imports Airflow."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from cryptography.fernet import Fernet

from rerank_jobs.airflow.once import find_dags_folder, make_environment

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dagrun import DagRun

CANARY = "zanzibarquagga"
"""A word that stands in every query and document, and must stand nowhere else."""

OWN_DAG = """
from datetime import timedelta

from airflow.sdk import DAG, Param

from rerank_jobs.airflow import rerank_task_group

with DAG(
    "own_rerank",
    schedule=None,
    params={
        "job": Param("", type="string"),
        "region": Param("", type="string"),
        "conn_id": Param("", type="string"),
    },
    default_args={"retries": 1, "retry_delay": timedelta(seconds=0)},
):
    rerank_task_group(
        "{{ params.job }}",
        group_id="relevance",
        partition="{{ params.region }}|{{ ds }}",
        conn_id="{{ params.conn_id }}",
        score_args={"max_active_tis_per_dagrun": 2},
    )
"""

OWN_CANARY = """
from airflow.sdk import DAG, Param

from rerank_jobs.airflow import canary_task

with DAG("own_canary", schedule=None, params={"job": Param("", type="string")}):
    canary_task("{{ params.job }}", task_id="warned", on_moved="warn")
"""

# In memory where that can be: SQLite waits for the disk, and other tests keep the disk busy.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
HOME = Path(tempfile.mkdtemp(prefix="rerank-jobs-airflow-", dir=MEMORY))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
(HOME / "dags").mkdir()
for _dag_file in find_dags_folder().glob("*.py"):
    shutil.copy(_dag_file, HOME / "dags")
(HOME / "dags" / "own_rerank.py").write_text(OWN_DAG, encoding="utf-8")
(HOME / "dags" / "own_canary.py").write_text(OWN_CANARY, encoding="utf-8")

_environment = make_environment(HOME, HOME / "dags", os.environ)
_environment["AIRFLOW__CORE__FERNET_KEY"] = Fernet.generate_key().decode()
for _name in set(os.environ) - set(_environment):
    del os.environ[_name]
os.environ.update(_environment)


@dataclass(frozen=True)
class Table:
    """A job in a folder of its own, with a long table of ``queries`` x ``documents`` rows."""

    folder: Path
    job_file: Path
    queries: int
    documents: int

    def seal_by_epoch(self) -> dict[int, list[tuple[bytes, bytes]]]:
        """Return the sealed pairs of all shards by the epoch of the process that paid them."""
        sealed: dict[int, list[tuple[bytes, bytes]]] = {}
        for path in sorted(self.folder.glob("out.state/*/run/*/*/seg/*.arrow")):
            with pa.OSFile(str(path), "rb") as source, pa.ipc.open_file(source) as reader:
                rows = reader.read_all().select(["query_key", "passage_keys"]).to_pylist()
            pairs = sealed.setdefault(int(path.name.split("-")[0]), [])
            pairs += [(row["query_key"], key) for row in rows for key in row["passage_keys"]]
        return sealed


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., Table]:
    """Write a candidate table and its job file; ``job`` overrides keys of the job.

    ``first_times`` makes each query's first document so many times longer.
    """

    def make(
        partition: str,
        *,
        queries: int = 12,
        documents: int = 5,
        first_times: int = 1,
        job: dict[str, Any] | None = None,
    ) -> Table:
        rows = [
            {
                "query_id": f"q{query:04d}",
                "query": f"{CANARY} how does part {query} work",
                "doc_id": f"d{document:02d}",
                "text": f"{CANARY} part {(query + document) % 7} works like number {document}. "
                * (first_times if document == 0 else 1),
                "first_stage_rank": document + 1,
            }
            for query in range(queries)
            for document in range(documents)
        ]
        folder = tmp_path / "in" / f"ds={partition}"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
        document = {
            "name": "small",
            "input": {
                "path": "in/{partition}",
                "columns": {
                    "query_id": "query_id",
                    "document_id": "doc_id",
                    "document": "text",
                    "first_stage_rank": "first_stage_rank",
                },
            },
            "partition": {"template": "ds={key}"},
            "output": {"path": "out"},
            **(job or {}),
        }
        job_file = tmp_path / "rerank.yaml"
        job_file.write_text(yaml.safe_dump(document), encoding="utf-8")
        return Table(tmp_path, job_file, queries, documents)

    return make


@pytest.fixture(scope="session")
def dag_bag() -> DagBag:
    """Return the DAGs of the tests' Airflow, whose database is ready."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils import db

    db.initdb()
    return DagBag(dag_folder=str(HOME / "dags"))


@pytest.fixture(scope="session")
def defaults(dag_bag: DagBag) -> dict[str, dict[str, Any]]:
    """Return the DAGs' parameters as written: a run by ``dag.test()`` leaves its own in them."""
    return {dag_id: dag.params.dump() for dag_id, dag in dag_bag.dags.items()}


@pytest.fixture
def run_dag(dag_bag: DagBag, defaults: dict[str, dict[str, Any]]) -> Callable[..., DagRun]:
    """Run a DAG by ``dag.test()``; each run has an instant of its own unless one is given."""
    from airflow.sdk import timezone

    instants = iter(range(1, 1000))
    base = datetime.now(UTC)

    def run(dag_id: str, at: datetime | None = None, **conf: Any) -> DagRun:
        moment = timezone.coerce_datetime(at or base + timedelta(milliseconds=next(instants)))
        dag = dag_bag.dags[dag_id]
        conf = {**defaults[dag_id], **conf}
        done: DagRun = dag.test(run_after=moment, logical_date=moment, run_conf=conf)
        return done

    return run


def tasks_of(run: DagRun) -> dict[tuple[str, int], tuple[str, int]]:
    """Return (state, try) of every task by (task, map index)."""
    return {
        (one.task_id, one.map_index): (str(one.state), one.try_number)
        for one in run.get_task_instances()
    }


def result_of(run: DagRun, group: str = "rerank", task: str = "publish") -> dict[str, Any]:
    """Return what ``publish``, or another task, said."""
    instance = run.get_task_instance(f"{group}.{task}")
    assert instance is not None
    value: dict[str, Any] = instance.xcom_pull(task_ids=instance.task_id)
    return value


@pytest.fixture
def airflow_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[], str]:
    """Return all that was logged: Airflow writes one half itself, the other by ``logging``."""
    return lambda: "".join(capfd.readouterr()) + caplog.text


def serve_endpoint(latency_ms: int) -> contextlib.AbstractContextManager[str]:
    """Serve instant scores on loopback in a process of their own; enter it for the URL."""
    options = ["--scorer", "instant", "--latency-ms", str(latency_ms)]
    return _start(["rerank_jobs", "serve", "--port", "0", *options], {})


def serve_guarded(
    key: str, *, status: int = 500, times: int = 0, faults: Path | None = None
) -> contextlib.AbstractContextManager[str]:
    """Serve instant scores behind a key; the first calls may get an error that quotes them."""
    arguments = [str(status), str(times), *([] if faults is None else [str(faults)])]
    return _start(["tests.dags.guarded_server", *arguments], {"GUARD_KEY": key})


@contextlib.contextmanager
def _start(module: list[str], variables: dict[str, str]) -> Iterator[str]:
    environment = {**os.environ, **variables}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-m", *module]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
