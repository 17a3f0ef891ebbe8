"""What the DAGs that come with this package have in common: retries, parameters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param

__all__ = ["RETRIES", "text_param"]

RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=15),
}
"""``default_args`` of a DAG; what a retry cannot mend fails at once all the same."""


def text_param(default: str | None, description: str) -> Param:
    """Return a parameter that is text, and may be left empty if its default is ``None``."""
    types = ["null", "string"] if default is None else "string"
    return Param(default, type=types, minLength=1, description=description)
