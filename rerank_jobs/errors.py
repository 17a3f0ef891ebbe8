"""Every error that a user can meet, split by who must act.

    RerankJobsError
    |-- JobError             the job file, the command or the set-up is wrong: change it    exit 2
    |-- InputError           the table is wrong: file, column and row are named             exit 2
    |-- StateError           the state root is damaged, foreign or of another format        exit 2
    |   |-- PlanSpoiled      a planned file is gone or damaged: the plan is made again
    |   `-- SnapshotGone     what a reader holds was replaced by a newer generation: read again
    |-- Stopped              nothing is lost: remove the cause, run again, it goes on       exit 3
    |   |-- BudgetStop       a plan dearer than a budget, or a spent allowance, day or month
    |   |-- KeyStop          no key, or a key that the endpoint refused (401, 403)
    |   |-- CreditStop       the account is out of credit, or at its limit (402, 403)
    |   |-- QuotaStop        a daily quota, or a limit with a known instant of reset
    |   |-- RuntimeStop      max_runtime is over
    |   |-- LimitStop        the store of a shared rate limit is away, or refuses us
    |   `-- EndpointStop     the endpoint refuses the job as it stands, or stays out of reach
    |-- GateFailed           everything is paid and kept, but a gate forbids publishing     exit 4
    |-- Busy                 another live owner works on this shard                         exit 5
    |-- Fenced               another owner took this shard over                             exit 6
    |-- CanaryMoved          model, provider or scores are not what they were               exit 7
    |-- Interrupted          a signal: what is paid is sealed                               exit 130
    `-- CommitUnknown        the store neither confirmed nor denied a commit: run again     exit 3

A message is one line: what, where, what to do. It never holds query text, document text or keys.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BudgetStop",
    "Busy",
    "CanaryMoved",
    "CommitUnknown",
    "CreditStop",
    "EndpointStop",
    "Fenced",
    "GateFailed",
    "InputError",
    "Interrupted",
    "JobError",
    "KeyStop",
    "LimitStop",
    "PlanSpoiled",
    "QuotaStop",
    "RerankJobsError",
    "RuntimeStop",
    "SnapshotGone",
    "StateError",
    "Stopped",
]


class RerankJobsError(Exception):
    """Base of all errors that are reported in one line and end with ``exit_code``."""

    exit_code: ClassVar[int] = 1

    def note_kept(self, kept: str) -> None:
        """Add to the message what is kept of the work that this error ends."""
        self.args = (f"{self.args[0] if self.args else type(self).__name__} [{kept}]",)


class JobError(RerankJobsError):
    """The job file, the command line or the installation must be changed."""

    exit_code = 2


class InputError(RerankJobsError):
    """The input table must be changed; raised before any call is paid."""

    exit_code = 2


class StateError(RerankJobsError):
    """The state root is damaged, belongs to something else or has another format."""

    exit_code = 2


class PlanSpoiled(StateError):
    """A file that a plan froze is gone or damaged: planned again, all that is paid is used."""


class SnapshotGone(StateError):
    """A newer generation replaced the one that was being read: read the current one again."""


class Stopped(RerankJobsError):
    """The run stopped cleanly: every paid score is sealed and a new run goes on from there."""

    exit_code = 3


class BudgetStop(Stopped):
    """The plan costs more than a budget, or what a shard may spend is spent."""


class KeyStop(Stopped):
    """The API key is missing, or the endpoint refused it."""


class CreditStop(Stopped):
    """The account's credit or spending limit is used up."""


class QuotaStop(Stopped):
    """A quota is used up that resets at a known or unknown later instant."""

    def __init__(self, message: str, *, wait_seconds: float | None = None) -> None:
        """Keep how long to wait, where the endpoint said so (seconds from now)."""
        super().__init__(message)
        self.wait_seconds = wait_seconds


class RuntimeStop(Stopped):
    """The job's ``max_runtime`` is over; a new run goes on."""


class LimitStop(Stopped):
    """Without the word of the shared limit's store nothing may be sent, and it gives none."""


class EndpointStop(Stopped):
    """The endpoint refuses every request of this job, or cannot be reached."""


class GateFailed(RerankJobsError):
    """All scores are paid and kept; the published table stays as it was."""

    exit_code = 4


class Busy(RerankJobsError):
    """Another live owner holds the shard; nothing was sent."""

    exit_code = 5


class Fenced(RerankJobsError):
    """Another owner took the shard over; what this one paid is sealed."""

    exit_code = 6


class CanaryMoved(RerankJobsError):
    """The endpoint scores the canary otherwise than before; nothing is lost."""

    exit_code = 7


class Interrupted(RerankJobsError):
    """A signal ended the run; every paid score is sealed."""

    exit_code = 130


class CommitUnknown(RerankJobsError):
    """A commit's outcome is unknown: nothing was deleted; running again settles it."""

    exit_code = 3
