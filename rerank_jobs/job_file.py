"""Job files: read, parsed and validated, with every mistake in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rerank_jobs.config import Job
from rerank_jobs.errors import JobError
from rerank_jobs.job_text import describe_problem, read_mapping

__all__ = ["load_job", "parse_job"]


def load_job(path: Path) -> Job:
    """Read and validate a job file.

    Raises:
        JobError: the file is missing, is not YAML, or does not describe a job.

    """
    data = read_mapping(path, "job file", "name: and input:", " (rerank-jobs init writes one)")
    return parse_job(data, base=path.parent, where=str(path))


def parse_job(data: dict[str, Any], *, base: Path, where: str = "job") -> Job:
    """Validate a job given as a mapping; all problems come in one ``JobError``."""
    if "base" in data:
        raise JobError(f"{where}: base: unknown key")
    try:
        return Job.model_validate({**data, "base": Path(os.path.abspath(base))})  # noqa: PTH100
    except ValidationError as error:
        problems = [describe_problem(Job, dict(item)) for item in error.errors(include_url=False)]
        raise JobError(f"{where}: " + "; ".join(problems)) from None
