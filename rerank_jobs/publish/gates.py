"""Gates: what must hold before anything becomes visible."""

from __future__ import annotations

from rerank_jobs.config import Job
from rerank_jobs.errors import GateFailed, StateError
from rerank_jobs.publish.orders import PublishOrder, add_statuses

__all__ = ["check_gates"]


def check_gates(job: Job, order: PublishOrder) -> None:
    """Check what must hold before anything becomes visible.

    Raises:
        GateFailed: too many documents failed.
        StateError: the parts do not add up to the plan.

    """
    rows = sum(shard.part.rows for shard in order.shards if shard.part)
    counts = add_statuses(order.shards)
    documents = sum(counts.values())
    if (rows, documents) != (order.rows, order.documents):
        raise StateError(
            f"plan {order.plan_id[:8]}: parts hold {rows:,} rows and {documents:,} documents, the"
            f" plan {order.rows:,} and {order.documents:,}: nothing was published; run again"
        )
    failed = counts.get("failed", 0)
    fraction = failed / documents if documents else 0.0
    again = "run again with --retry-failed to send them once more"
    if failed and job.failures.on_failed == "fail":
        raise GateFailed(
            f"{failed:,} of {documents:,} documents failed (failures.on_failed: fail): {again}"
        )
    if fraction > job.failures.max_failed_fraction:
        raise GateFailed(
            f"{failed:,} of {documents:,} documents failed ({fraction:.2%}, over"
            f" failures.max_failed_fraction {job.failures.max_failed_fraction:.2%}): nothing was"
            f" published; {again}, or allow more"
        )
