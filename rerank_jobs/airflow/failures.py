"""What Airflow is told when a task fails: whether a retry helps, and nothing that a table holds."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from rerank_jobs.errors import (
    BudgetStop,
    CreditStop,
    Fenced,
    GateFailed,
    InputError,
    JobError,
    KeyStop,
    RerankJobsError,
    StateError,
)

__all__ = ["FINAL", "report_failures"]

FINAL = (
    JobError,
    InputError,
    StateError,
    GateFailed,
    BudgetStop,
    KeyStop,
    CreditStop,
    Fenced,
)
"""Errors that the same task cannot get over by itself: somebody must act first."""


@contextlib.contextmanager
def report_failures() -> Iterator[None]:
    """Turn our errors into Airflow's: ``FINAL`` ones are not retried, all others are.

    Only the one-line message goes on, without the traceback of where it came from: frames deep in
    scoring hold texts, and a log handler may print their local variables. Of an error that is not
    ours the message stays behind too, because libraries quote values of the table in theirs; its
    type and the lines of code that it passed are kept.

    Raises:
        AirflowFailException: one of ``FINAL``.
        AirflowException: any other error but ``OSError``, which names a path and passes as it is.

    """
    try:
        yield
    except FINAL as error:
        raise AirflowFailException(str(error)) from None
    except RerankJobsError as error:
        raise AirflowException(str(error)) from None
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - nothing is hidden but the message
        frames = traceback.extract_tb(error.__traceback__)
        passed = "".join(traceback.format_list(frames)).rstrip()
        raise AirflowException(
            f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}"
            f" (its message may quote the table and is left out)\n{passed}"
        ) from None
