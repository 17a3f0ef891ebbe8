"""The same job by the command line, in one process, against the same address without a limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.processes import ROOT
from tests.cluster.settings import Plan
from tests.distributed.scenario import KEY, PARTITION, write_job

__all__ = ["run_single"]

RUN_SECONDS = 120


def run_single(data: Path, plan: Plan) -> Path:
    """Run ``rerank-jobs run`` over the table in ``data/in``; return its output folder.

    The endpoint's address is part of what names a scorer, so it is the cluster's own, whose
    endpoint is not there yet.
    """
    environment = {**os.environ, "GUARD_KEY": KEY, "SHOP_KEY": KEY, "PYTHONPATH": str(ROOT)}
    job = write_job(
        data / "single.yaml", plan, "single", api_key_env="SHOP_KEY", requests_per_minute=1_000_000
    )
    server = ["tests.distributed.strict_server", "--port", str(plan.endpoint)]
    python = [sys.executable, "-P", "-m"]
    with subprocess.Popen(
        [*python, *server], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening on ")
            run = ["rerank_jobs", "run", str(job), "--partition", PARTITION]
            subprocess.run(
                [*python, *run],
                env=environment,
                check=True,
                capture_output=True,
                timeout=RUN_SECONDS,
            )
        finally:
            process.terminate()
    return data / "single"
