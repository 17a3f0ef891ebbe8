"""One run of the real command line in this process, which can kill itself at a named event.

Everything is wrapped, nothing replaced: the real store, link and merge do their work. What a run
deletes that the harness wants to compare (``done.json``, parts, texts by key) is kept aside first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import obstore
import pyarrow.dataset
import pyarrow.parquet

import rerank_jobs.cli.run
from rerank_jobs import parts
from rerank_jobs.cli import main
from rerank_jobs.contracts import contract_versions
from rerank_jobs.ledger import claims, spending
from rerank_jobs.storage import LocalStore
from tests.crash.phases import KillPoint, is_phase

__all__ = ["Order", "run"]

# Done once by the server that forks runs: that is most of what a run's start takes.
PRELOADED = (duckdb, pyarrow.dataset, pyarrow.parquet, rerank_jobs.cli.run, contract_versions())

INTERRUPTED = 130
KEPT = ("done.", "part-", "work.passages-", "rejected-")


@dataclass(frozen=True, slots=True)
class Order:
    """A command, where its output and what it deletes are kept, and where it kills itself.

    ``signal`` is what it sends itself there; ``silence_seconds`` and ``beat_seconds`` shorten what
    another owner waits for, in this process.
    """

    arguments: tuple[str, ...]
    log: Path
    kept: Path
    environment: dict[str, str] = field(default_factory=dict)
    kill: KillPoint | None = None
    signal: int = signal.SIGKILL
    silence_seconds: float | None = None
    beat_seconds: float | None = None


def run(order: Order) -> None:
    """Run the command and exit with its code, or die on the way."""
    # From here on the log is there, and a signal finds somebody who answers it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(INTERRUPTED))
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order.environment)
    _change_waits(order)
    _wrap(_Watch(order))
    code = main(order.arguments)
    sys.stdout.flush()
    os._exit(code)  # the run is over: what a signal does to Python's own ending is not ours


def _change_waits(order: Order) -> None:
    if order.silence_seconds is not None:
        for module in (claims, spending):
            module.SILENCE_SECONDS = order.silence_seconds  # type: ignore[attr-defined]
    if order.beat_seconds is not None:
        seconds, enter = order.beat_seconds, claims.Claim.__enter__

        def enter_faster(claim: claims.Claim) -> claims.Claim:
            claim.beat_seconds = seconds
            return enter(claim)

        claims.Claim.__enter__ = enter_faster  # type: ignore[assignment,method-assign]


class _Watch:
    """Counts events, and kills the process at the one that was ordered."""

    def __init__(self, order: Order) -> None:
        self._kill = order.kill
        self._signal = order.signal
        self._kept = order.kept
        self._count = 0
        self._lock = threading.Lock()

    def see(self, moment: str, name: str) -> None:
        """Note an event; die if it is the one."""
        kill = self._kill
        if kill is None or not is_phase(kill.phase, moment, name):
            return
        with self._lock:
            self._count += 1
            reached = self._count == kill.count
        if reached and kill.delay:
            threading.Timer(kill.delay, os.kill, (os.getpid(), self._signal)).start()
        elif reached:
            os.kill(os.getpid(), self._signal)

    def keep(self, name: str, data: bytes) -> None:
        """Keep a file that is about to be deleted; another one of its name stands beside it."""
        run_name = name.rpartition("/run/")[2]
        if run_name == name or not name.rpartition("/")[2].startswith(KEPT):
            return
        target = self._kept / run_name
        while target.exists() and target.read_bytes() != data:
            target = target.with_name(f"{target.name}.other")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _wrap(watch: _Watch) -> None:
    _wrap_folders(watch)
    _wrap_buckets(watch)
    merge = vars(parts)["merge_shard"]

    def merge_shard(*arguments: Any, **named: Any) -> Iterator[Any]:
        watch.see("merge", "begin")
        for table in merge(*arguments, **named):
            yield table
            watch.see("merge", "block")

    vars(parts)["merge_shard"] = merge_shard


def _wrap_folders(watch: _Watch) -> None:
    link, delete = os.link, LocalStore.delete

    def watched_link(source: Any, target: Any, **named: Any) -> None:
        temporary = Path(target).name.startswith(".tmp-")
        if not temporary:
            watch.see("create", str(target))
        link(source, target, **named)
        if not temporary:
            watch.see("created", str(target))

    def watched_delete(store: LocalStore, name: str) -> None:
        path = Path(store.location) / name
        watch.see("delete", str(path))
        if path.is_file():
            watch.keep(str(path), path.read_bytes())
        delete(store, name)
        watch.see("deleted", str(path))

    vars(os)["link"] = watched_link
    LocalStore.delete = watched_delete  # type: ignore[assignment,method-assign]


def _wrap_buckets(watch: _Watch) -> None:
    put, get, delete = obstore.put, obstore.get, obstore.delete

    def watched_put(store: Any, key: str, *arguments: Any, **named: Any) -> Any:
        creates = named.get("mode") == "create"
        if creates:
            watch.see("create", f"/{key}")
        result = put(store, key, *arguments, **named)
        if creates:
            watch.see("created", f"/{key}")
        return result

    def watched_delete(store: Any, key: str) -> None:
        watch.see("delete", f"/{key}")
        with contextlib.suppress(FileNotFoundError):
            watch.keep(f"/{key}", bytes(get(store, key).bytes()))
        delete(store, key)
        watch.see("deleted", f"/{key}")

    vars(obstore)["put"] = watched_put
    vars(obstore)["delete"] = watched_delete
