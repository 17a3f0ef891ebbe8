"""Upkeep of the state root: made once, compacted before planning, cleared after publishing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from rerank_jobs.errors import StateError
from rerank_jobs.ledger.compaction import compact, upgrade_library
from rerank_jobs.ledger.library import list_scorers
from rerank_jobs.ledger.loading import Spent, load_segments
from rerank_jobs.plan.frozen import Plan, plan_name, read_plan, run_folder
from rerank_jobs.publish.generations import Generation
from rerank_jobs.publish.retention import name_kept
from rerank_jobs.storage import Store, read_json, seal_json

__all__ = [
    "STATE_FORMAT",
    "add_up_spent",
    "check_state",
    "compact_unfinished",
    "drop_work_files",
    "is_up_to_date",
    "prepare_state",
    "retire_plan",
]

STATE_FORMAT = 2
"""Version of the layout of a state root (docs/state-layout.md)."""

OLDEST_FORMAT = 1
"""The oldest format that is upgraded."""

SALT_BYTES = 32


def prepare_state(state: Store, *, upgrade: bool = True) -> bytes:
    """Create, check or upgrade the state root; return its salt.

    An upgrade that was interrupted is done again by the next call. Without ``upgrade`` a root of an
    earlier format stays as it is, and may only be read.

    Raises:
        StateError: see ``check_state``.

    """
    salt = check_state(state)
    if salt is None:
        state.put_if_absent("salt", os.urandom(SALT_BYTES))
        state.put_if_absent("FORMAT", _describe_format(state.read("salt")))
        salt = check_state(state) or b""
    if upgrade and not is_up_to_date(state):
        for scorer in list_scorers(state):
            upgrade_library(state, scorer)
        state.replace("FORMAT", _describe_format(salt))  # last: only now all of it is so
    return salt


def check_state(state: Store) -> bytes | None:
    """Check that this version knows the state root; return its salt, ``None`` where none is made.

    Nothing is changed.

    Raises:
        StateError: the root has a newer format or a damaged ``FORMAT``, or its salt is gone or
            changed: with a new one nothing that was paid would be found again.

    """
    if not state.exists("FORMAT"):
        return None
    document = read_json(state, "FORMAT")
    found = document.get("format")
    if not isinstance(found, int) or not OLDEST_FORMAT <= found <= STATE_FORMAT:
        raise StateError(
            f"{state.location}: state format {found}, this version reads {OLDEST_FORMAT} to"
            f" {STATE_FORMAT}: use the version of rerank-jobs that made it, or a later one"
        )
    salt = state.read("salt") if state.exists("salt") else b""
    if hashlib.sha256(salt).hexdigest() != document.get("salt"):
        raise StateError(
            f"{state.location}/salt: gone or changed: restore it, paid scores are found by it"
        )
    return salt


def is_up_to_date(state: Store) -> bool:
    """Say whether the state root has this version's format."""
    return read_json(state, "FORMAT").get("format") == STATE_FORMAT


def _describe_format(salt: bytes) -> bytes:
    return seal_json({"format": STATE_FORMAT, "salt": hashlib.sha256(salt).hexdigest()})


def compact_unfinished(
    state: Store, partition: str, generations: Sequence[Generation], *, but: str | None = None
) -> None:
    """Bring sealed scores of this partition's plans into the library: paid is paid.

    Also those that an overtaken run sealed after its plan was published and retired. The plan
    ``but`` uses its own segments, and stays the same if it must be made anew.
    """
    scorers = {one.plan_id: str(one.document["scorer_id"]) for one in generations}
    for entry in state.entries(f"{partition}/plan"):
        identity = entry.name.rpartition("/")[2].removesuffix(".json")
        scorers[identity] = read_plan(state, partition, identity).scorer_id
    scorers.pop(but or "", None)
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
