"""Waiting for a partition's input without holding a slot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator

from rerank_jobs.airflow.failures import report_failures
from rerank_jobs.airflow.partition import find_partition

__all__ = ["PartitionSensor"]

log = logging.getLogger(__name__)


class PartitionSensor(BaseSensorOperator):
    """Succeeds once the input of a job's partition is there; until then it holds no slot.

    ``job``, ``partition`` and ``ready_file`` are templates. Without ``partition`` it is the run's,
    as for ``rerank_task_group``. The input is there when its file, or one Parquet file in its
    folder, is; with ``ready_file``, a path from that folder such as ``_SUCCESS``, only when that
    file is there too. A look is one listing. After ``timeout`` the task fails, and is not retried.

    By default it looks every minute (``poke_interval``), in mode ``reschedule``, which needs no
    triggerer.
    """

    template_fields: Sequence[str] = ("job", "partition", "ready_file")
    ui_color = "#e6f1f2"

    def __init__(
        self,
        *,
        job: str,
        partition: str = "",
        ready_file: str = "",
        mode: str = "reschedule",
        **options: Any,
    ) -> None:
        """Name the input; nothing is read yet."""
        super().__init__(mode=mode, **options)
        self.job = job
        self.partition = partition
        self.ready_file = ready_file

    def poke(self, context: Any) -> bool:
        """Look once.

        Raises:
            AirflowFailException: the job file is wrong, so that waiting is of no use.

        """
        from rerank_jobs.airflow import steps

        partition = self.partition or find_partition(context)
        with report_failures():
            return steps.look_for_input(self.job, partition, self.ready_file)
