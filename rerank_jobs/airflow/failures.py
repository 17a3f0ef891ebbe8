"""What Airflow is told when a task fails: whether, and when, to try again; nothing of a table."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
)

from rerank_jobs.errors import (
    BudgetStop,
    Busy,
    CanaryMoved,
    CreditStop,
    Fenced,
    GateFailed,
    InputError,
    JobError,
    KeyStop,
    QuotaStop,
    RerankJobsError,
    StateError,
)

__all__ = ["FINAL", "find_wait", "report_failures"]

log = logging.getLogger(__name__)

FINAL = (
    JobError,
    InputError,
    StateError,
    GateFailed,
    BudgetStop,
    KeyStop,
    CreditStop,
    Fenced,
    CanaryMoved,
)
"""Errors that the same task cannot get over by itself: somebody must act first."""

BUSY_SECONDS = 60.0
"""Between looks at a shard that somebody else works on; a dead owner is out after 120 s."""

LONGEST_WAIT_SECONDS = 86_400.0
"""A wait that an endpoint asks for is looked into once a day, however long it is."""

MOST_RESCHEDULES = 1000
"""Of one try; the next time the try is spent, so that nothing waits for ever unseen."""


@contextlib.contextmanager
def report_failures(rescheduled: int = 0) -> Iterator[None]:
    """Turn our errors into Airflow's: fail for good, wait without a slot, or try again.

    ``FINAL`` errors are not retried. What has an instant at which it may be over
    (``find_wait``) reschedules the task: it holds no slot meanwhile and keeps its try;
    ``rescheduled`` is how often this try did so already. All others spend a try.

    Only the one-line message goes on, without the traceback of where it came from: frames deep in
    scoring hold texts, and a log handler may print their local variables. Of an error that is not
    ours the message stays behind too, because libraries quote values of the table in theirs; its
    type and the lines of code that it passed are kept.

    Raises:
        AirflowFailException: one of ``FINAL``.
        AirflowRescheduleException: one that has a wait.
        AirflowException: any other error; Airflow's own, and ``OSError``, which names a path, pass
            as they are.

    """
    try:
        yield
    except FINAL as error:
        raise AirflowFailException(str(error)) from None
    except RerankJobsError as error:
        wait = find_wait(error)
        if wait is None or rescheduled >= MOST_RESCHEDULES:
            raise AirflowException(str(error)) from None
        until = datetime.now(UTC) + timedelta(seconds=wait)
        log.warning("%s (this task goes on by itself at %s UTC)", error, f"{until:%Y-%m-%d %H:%M}")
        raise AirflowRescheduleException(until) from None  # type: ignore[no-untyped-call]
    except (OSError, AirflowException):
        raise
    except Exception as error:  # noqa: BLE001 - nothing is hidden but the message
        frames = traceback.extract_tb(error.__traceback__)
        passed = "".join(traceback.format_list(frames)).rstrip()
        raise AirflowException(
            f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}"
            f" (its message may quote the table and is left out)\n{passed}"
        ) from None


def find_wait(error: RerankJobsError) -> float | None:
    """Return the seconds after which the same task may get on, ``None`` if nobody knows."""
    if isinstance(error, Busy):
        return BUSY_SECONDS
    if isinstance(error, QuotaStop) and error.wait_seconds is not None:
        # A second more: at the instant itself the limit may still stand.
        return min(max(0.0, error.wait_seconds) + 1.0, LONGEST_WAIT_SECONDS)
    return None
