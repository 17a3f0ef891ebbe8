"""Upkeep of the state root: made once, compacted before planning, cleared after publishing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from rerank_jobs.errors import StateError
from rerank_jobs.ledger.compaction import compact
from rerank_jobs.ledger.loading import Spent, load_segments
from rerank_jobs.plan.frozen import Plan, plan_name, read_plan, run_folder
from rerank_jobs.publish.generations import Generation
from rerank_jobs.publish.retention import name_kept
from rerank_jobs.storage import Store, read_json, seal_json

__all__ = ["add_up_spent", "compact_unfinished", "drop_work_files", "prepare_state", "retire_plan"]

STATE_FORMAT = 1

SALT_BYTES = 32


def prepare_state(state: Store) -> bytes:
    """Create or check the state root; return its salt.

    Raises:
        StateError: the root has another format, or its salt is gone or changed: with a new one
            nothing that was paid would be found again.

    """
    if not state.exists("FORMAT"):
        state.put_if_absent("salt", os.urandom(SALT_BYTES))
        state.put_if_absent("FORMAT", seal_json(_describe_format(state.read("salt"))))
    found = read_json(state, "FORMAT")
    if found.get("format") != STATE_FORMAT:
        raise StateError(
            f"{state.location}: state format {found.get('format')}, this version writes"
            f" {STATE_FORMAT}: use the version that made it"
        )
    salt = state.read("salt") if state.exists("salt") else b""
    if _describe_format(salt)["salt"] != found.get("salt"):
        raise StateError(
            f"{state.location}/salt: gone or changed: restore it, paid scores are found by it"
        )
    return salt


def _describe_format(salt: bytes) -> dict[str, Any]:
    return {"format": STATE_FORMAT, "salt": hashlib.sha256(salt).hexdigest()}


def compact_unfinished(state: Store, partition: str, generations: Sequence[Generation]) -> None:
    """Bring sealed scores of this partition's plans into the library: paid is paid.

    Also those that an overtaken run sealed after its plan was published and retired.
    """
    scorers = {one.plan_id: str(one.document["scorer_id"]) for one in generations}
    for entry in state.entries(f"{partition}/plan"):
        identity = entry.name.rpartition("/")[2].removesuffix(".json")
        scorers[identity] = read_plan(state, partition, identity).scorer_id
    for identity, scorer in sorted(scorers.items()):
        compact(state, scorer, f"{partition}/run/{identity}", identity)


def add_up_spent(state: Store, plan: Plan) -> Spent:
    """Add up what the plan's segments say, shard by shard: never all pairs in memory at once."""
    total = Spent()
    for shard in plan.shards:
        folder = run_folder(plan.partition, plan.plan_id, shard.number)
        total = total.plus(load_segments(state, folder, plan.plan_id).spent)
    return total


def drop_work_files(state: Store, partition: str, identity: str) -> None:
    """Remove a finished plan's work files, which hold text, and keep its parts."""
    for entry in state.entries(f"{partition}/run/{identity}"):
        if entry.name.rpartition("/")[2].startswith("work."):
            state.delete(entry.name)


def retire_plan(state: Store, partition: str, identity: str, scorer: str, keep: int) -> None:
    """After publishing: scores into the library, then what holds text goes, but for what is kept.

    Kept are the parts that the current generation and the ``keep`` before it were published from.
    Segments, claims and run records stay; the manifest keeps what the plan said.
    """
    run = f"{partition}/run/{identity}"
    kept = name_kept(state, partition, keep)
    holding = [
        entry.name
        for entry in state.entries(run)
        if entry.name.rpartition("/")[2].startswith(("work.", "part-", "rejected-", "done."))
        and entry.name not in kept
    ]
    if not holding and not state.exists(plan_name(partition, identity)):
        return
    compact(state, scorer, run, identity)
    state.delete(plan_name(partition, identity))
    for name in holding:
        state.delete(name)
