"""Owners: who holds a shard, and how another process can tell that its owner is gone."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

__all__ = [
    "describe_owner",
    "is_gone",
    "is_here",
    "make_airflow_owner",
    "make_process_owner",
    "same_owner",
]


def make_process_owner() -> dict[str, Any]:
    """Return the owner that this process is: place, pid and start time name it for ever."""
    pid = os.getpid()
    return {
        "kind": "process",
        **_place(),
        "pid": pid,
        "started": _start_time(pid),
    }


def make_airflow_owner(dag_id: str, run_id: str, task_id: str, map_index: int) -> dict[str, Any]:
    """Return the owner that all tries of one task instance are: the newest try is the live one."""
    return {
        "kind": "airflow",
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": task_id,
        "map_index": map_index,
    }


def same_owner(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Say whether two owners are the same, so that the later may take over at once."""
    return one == other


def is_gone(owner: dict[str, Any]) -> bool:
    """Say whether an owner is surely dead: its process ended where this one can see all of them."""
    if owner.get("kind") != "process":
        return False
    if any(owner.get(name) != value for name, value in _place().items()):
        return False
    pid, started = int(owner["pid"]), owner.get("started")
    if started is None:
        return False
    found = _start_time(pid)
    # Where /proc hides other users' processes, a signal that does nothing still finds them.
    return found != started if found is not None else not _exists(pid)


def is_here(owner: dict[str, Any]) -> bool:
    """Say whether an owner is surely alive: its process runs where this one can see it."""
    if owner.get("kind") != "process" or is_gone(owner):
        return False
    return all(owner.get(name) == value for name, value in _place().items())


def describe_owner(owner: dict[str, Any]) -> str:
    """Return the owner in a few words for a message."""
    if owner.get("kind") == "process":
        return f"process {owner.get('pid')} on {owner.get('host')}"
    if not owner:
        return "an owner whose claim cannot be read"
    names = (owner.get("dag_id"), owner.get("run_id"), owner.get("task_id"), owner.get("map_index"))
    return "Airflow task " + " ".join(str(name) for name in names)


def _place() -> dict[str, str]:
    """Host, boot and pid namespace: containers may share the first two and not see each other."""
    place = {"host": socket.gethostname(), "boot": "", "pids": ""}
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        place |= {"boot": boot.strip(), "pids": str(Path("/proc/self/ns/pid").readlink())}
    return place


def _start_time(pid: int) -> str | None:
    """Ticks since boot at which a process started, ``""`` if it is dead, ``None`` if unseen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]  # dead, only not waited for


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
