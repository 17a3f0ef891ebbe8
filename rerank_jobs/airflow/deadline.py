"""What happens when a run is late: one log line, and a function of the user's own.

A deadline's callback runs in the triggerer, by its import path: it cannot stand in a DAG file.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

__all__ = ["alert_after", "report_late"]

log = logging.getLogger(__name__)


def alert_after(interval: timedelta, hook: str = "") -> DeadlineAlert | None:
    """Return the alert for runs that have not ended ``interval`` after they were queued.

    An interval of 0 is none: ``dag.test()`` of Airflow 3.3.2 fails on any DAG that has a deadline.
    ``hook`` names a function of the user's that the triggerer can import (``package.module.name``)
    and that is called with what ``report_late`` tells.
    """
    if not interval:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=interval,
        callback=AsyncCallback(report_late, kwargs={"hook": hook}),
    )


async def report_late(hook: str = "", context: Any = None) -> dict[str, Any]:
    """Log that a run is late and call the user's ``hook``, plain or async, with the facts.

    The facts: ``dag_id``, ``run_id``, ``partition`` (where the run has one) and ``deadline``, an
    ISO instant. A plain function runs in a thread, so that it does not stop other triggers.

    Raises:
        Exception: whatever importing or calling the hook raises, after the line was logged.

    """
    run, deadline = (context or {}).get("dag_run") or {}, (context or {}).get("deadline") or {}
    late = {
        "dag_id": run.get("dag_id"),
        "run_id": run.get("dag_run_id") or run.get("run_id"),
        "partition": run.get("partition_key"),
        "deadline": str(deadline.get("deadline_time") or ""),
    }
    log.error(
        "Run %s of %s is late: it has not ended by %s. It goes on; look at its tasks",
        late["run_id"],
        late["dag_id"],
        late["deadline"],
    )
    if hook:
        module, _, name = hook.rpartition(".")
        function = getattr(importlib.import_module(module), name)
        if inspect.iscoroutinefunction(function):
            await function(late)
        else:
            await asyncio.to_thread(function, late)
    return late
