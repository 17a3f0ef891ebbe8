"""Upkeep of the state root: made once, compacted before planning, cleared after publishing."""

from __future__ import annotations

import os

from rerank_jobs.errors import StateError
from rerank_jobs.ledger.library import compact
from rerank_jobs.ledger.loading import Spent, load_segments
from rerank_jobs.plan.frozen import Plan, plan_name, read_plan, run_folder
from rerank_jobs.storage import Put, Store, read_json, seal_json

__all__ = ["add_up_spent", "compact_unfinished", "drop_work_files", "prepare_state", "retire_plan"]

STATE_FORMAT = 1

SALT_BYTES = 32


def prepare_state(state: Store) -> bytes:
    """Create or check the state root; return its salt.

    Raises:
        StateError: the root was made by a version with another format.

    """
    if state.put_if_absent("FORMAT", seal_json({"format": STATE_FORMAT})) is Put.OTHER:
        found = read_json(state, "FORMAT").get("format")
        if found != STATE_FORMAT:
            raise StateError(
                f"{state.location}: state format {found}, this version writes {STATE_FORMAT}"
            )
    if not state.exists("salt"):
        state.put_if_absent("salt", os.urandom(SALT_BYTES))
    salt = state.read("salt")
    if len(salt) != SALT_BYTES:
        raise StateError(f"{state.location}/salt: damaged: restore it, keys depend on it")
    return salt


def compact_unfinished(state: Store, partition: str) -> None:
    """Bring sealed scores of this partition's other plans into the library: paid is paid."""
    plans = state.entries(f"{partition}/plan")
    for identity in sorted(
        {entry.name.rpartition("/")[2].removesuffix(".json") for entry in plans}
    ):
        plan = read_plan(state, partition, identity)
        compact(state, plan.scorer_id, f"{partition}/run/{identity}", identity)


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


def retire_plan(state: Store, partition: str, identity: str, scorer: str) -> None:
    """After publishing: scores into the library, then everything that holds text goes.

    Segments, claims and run records stay; the manifest keeps what the plan said.
    """
    run = f"{partition}/run/{identity}"
    entries = state.entries(run)
    holding = [
        e.name
        for e in entries
        if e.name.rpartition("/")[2].startswith(("work.", "part-", "rejected-", "done."))
    ]
    if not holding and not state.exists(plan_name(partition, identity)):
        return
    compact(state, scorer, run, identity)
    state.delete(plan_name(partition, identity))
    for name in holding:
        state.delete(name)
