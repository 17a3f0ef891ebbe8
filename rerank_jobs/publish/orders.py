"""What is published, and where: the values that gates and publishing work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerank_jobs.publish.generations import Part
from rerank_jobs.storage import Store

__all__ = ["PublishOrder", "Roots", "ShardPart", "add_statuses"]


@dataclass(frozen=True, slots=True)
class Roots:
    """The three places of a job: published data, rejected rows, and everything else."""

    output: Store
    rejected: Store
    state: Store


@dataclass(frozen=True, slots=True)
class ShardPart:
    """A finished shard: its part under state (``None`` without rows), its documents by status.

    ``ranking`` counts how its ranking moved (``RANKING``), ``None`` from earlier versions.
    """

    shard: int
    part: Part | None
    statuses: dict[str, int]
    ranking: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class PublishOrder:
    """All that a generation is made of; ``facts`` go into the manifest as they are."""

    partition: str
    folder: str
    plan_id: str
    shards: Sequence[ShardPart]
    rejected: Part | None
    rows: int
    documents: int
    facts: dict[str, Any]


def add_statuses(shards: Sequence[ShardPart]) -> dict[str, int]:
    """Add up documents by status over shards."""
    counts: dict[str, int] = {}
    for shard in shards:
        for status, count in shard.statuses.items():
            counts[status] = counts.get(status, 0) + count
    return counts
