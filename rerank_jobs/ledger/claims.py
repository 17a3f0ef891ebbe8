"""Claims: at most one live owner sends for a shard.

A claim is an object ``claim/<epoch>.json`` that exactly one process can create. Its owner writes a
beat beside it. The same owner takes over at once, another one only when the owner is surely dead,
has released the claim, or has been silent for 120 s; until then it is *busy*. Silence is measured
between two hosts' clocks, which may differ: so whoever is about to take over for it first watches
for a beat, and leaves the shard alone if there is one.

A claim also *reserves* money: what others must take for spent while its owner is alive.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import orjson

from rerank_jobs.errors import Busy, Fenced, StateError
from rerank_jobs.ledger.owners import describe_owner, is_gone, is_here, same_owner
from rerank_jobs.storage import Put, Store, read_json, seal_json
from rerank_jobs.storage.store import iterate_numbered

__all__ = ["SILENCE_SECONDS", "Claim", "acquire", "is_held", "read_reserved"]

SILENCE_SECONDS = 120.0
BEAT_SECONDS = 10.0
WATCH_SECONDS = 2.5 * BEAT_SECONDS


@dataclass
class Claim:
    """A held claim; as a context it beats in a thread and is released at the end."""

    store: Store
    folder: str
    epoch: int
    owner: dict[str, Any]
    on_fenced: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.time
    beat_seconds: float = BEAT_SECONDS
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def check(self) -> None:
        """Make sure that nobody took over.

        Raises:
            Fenced: somebody did.

        """
        newest = max(_epochs(self.store, self.folder), default=0)
        if newest < self.epoch:
            raise Fenced(
                f"{self.folder}: somebody removed the claim of this run: what it paid is sealed"
                " and counts; run again"
            )
        if newest > self.epoch:
            owner = _read_claim(self.store, self.folder, newest).get("owner", {})
            raise Fenced(
                f"{self.folder}: taken over by {describe_owner(owner)} (epoch {newest}):"
                " what this run paid is sealed and counts; nothing to do"
            )

    def beat(self) -> None:
        """Tell others that this owner is alive."""
        self.store.put(_beat_name(self.folder, self.epoch), orjson.dumps({"at": self.clock()}))

    def __enter__(self) -> Self:
        """Beat, and go on beating in a thread."""
        self.beat()
        self._thread = threading.Thread(target=self._go_on, name="claim-beat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop beating and release the claim, so that the next owner need not wait."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=BEAT_SECONDS)
        self._release()

    def _release(self) -> None:
        # Unreleased, it is only silent: that must not hide how the work ended.
        with contextlib.suppress(OSError):
            self.store.put(_beat_name(self.folder, self.epoch), orjson.dumps({"released": True}))

    def _go_on(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            try:
                self.check()
                self.beat()
                if self._stop.is_set():  # so slow a beat must not stand after the release
                    self._release()
            except Fenced:
                self.on_fenced()
                return
            except OSError:
                continue  # a beat may be lost: 12 in a row must be before anyone takes over


def acquire(
    store: Store,
    folder: str,
    owner: dict[str, Any],
    *,
    clock: Callable[[], float] = time.time,
    watch: Callable[[float], None] = time.sleep,
    reserved_usd: float = 0.0,
) -> Claim:
    """Claim a shard for ``owner`` or raise at once.

    ``reserved_usd`` is the most that the shard may have cost in all when the claim ends, what
    earlier owners paid included. ``watch`` waits so many seconds, for a beat of a silent owner.

    Raises:
        Busy: another owner is alive, or won the race for this epoch.

    """
    latest = max(_epochs(store, folder), default=0)
    if latest:
        _check_free(store, folder, latest, owner, clock, watch)
    document = {
        "epoch": latest + 1,
        "owner": owner,
        "claimed_at": clock(),
        "reserved_usd": reserved_usd,
        "write_id": uuid4().hex,  # two tries of one owner at one instant are two claims
    }
    if store.put_if_absent(_claim_name(folder, latest + 1), seal_json(document)) is Put.OTHER:
        raise Busy(f"{folder}: another owner claimed it at the same moment: try again")
    return Claim(store, folder, latest + 1, owner, clock=clock)


def _check_free(
    store: Store,
    folder: str,
    epoch: int,
    owner: dict[str, Any],
    clock: Callable[[], float],
    watch: Callable[[float], None],
) -> None:
    """Make sure that ``owner`` may take over from the holder of an epoch, else raise ``Busy``."""
    holder = _read_claim(store, folder, epoch)
    held_by = holder.get("owner", {})
    if same_owner(held_by, owner) or is_gone(held_by):
        return
    silence = _silence(store, folder, epoch, holder, clock())
    if silence == float("inf"):
        return
    if silence < SILENCE_SECONDS:
        raise Busy(
            f"{folder}: {describe_owner(held_by)} is at work on it (last sign"
            f" {silence:.0f} s ago): wait for it, or try again after"
            f" {SILENCE_SECONDS:.0f} s of silence"
        )
    before = _read_beat(store, folder, epoch)
    watch(min(WATCH_SECONDS, SILENCE_SECONDS))
    if _read_beat(store, folder, epoch) != before:
        raise Busy(
            f"{folder}: {describe_owner(held_by)} is at work on it, by a clock that is"
            f" {silence:.0f} s behind this one: wait for it, and set the clocks"
        )


def is_held(store: Store, folder: str, now: float) -> bool:
    """Say whether a shard's owner is alive at ``now``, or may be, and has not released it."""
    latest = max(_epochs(store, folder), default=0)
    if not latest:
        return False
    holder = _read_claim(store, folder, latest)
    owner = holder.get("owner", {})
    silence = _silence(store, folder, latest, holder, now)
    if silence == float("inf") or is_gone(owner):
        return False
    return is_here(owner) or silence < SILENCE_SECONDS


def read_reserved(store: Store, folder: str, now: float) -> float:
    """Return what the shard's owner reserved, in dollars; 0 if none is alive at ``now``."""
    latest = max(_epochs(store, folder), default=0)
    if not latest:
        return 0.0
    holder = _read_claim(store, folder, latest)
    if is_gone(holder.get("owner", {})):
        return 0.0
    if _silence(store, folder, latest, holder, now) >= SILENCE_SECONDS:
        return 0.0
    return float(holder.get("reserved_usd", 0.0))


def _claim_name(folder: str, epoch: int) -> str:
    return f"{folder}/claim/{epoch:08d}.json"


def _beat_name(folder: str, epoch: int) -> str:
    return f"{folder}/claim/{epoch:08d}.beat"


def _epochs(store: Store, folder: str) -> list[int]:
    return [number for number, _ in iterate_numbered(store, f"{folder}/claim", ".json")]


def _read_claim(store: Store, folder: str, epoch: int) -> dict[str, Any]:
    """Return a claim; of a damaged one only when it was made."""
    name = _claim_name(folder, epoch)
    try:
        return read_json(store, name)
    except (StateError, FileNotFoundError):
        made = [entry.modified for entry in store.entries(f"{folder}/claim") if entry.name == name]
        return {"claimed_at": made[0]} if made else {}


def _read_beat(store: Store, folder: str, epoch: int) -> bytes:
    try:
        return store.read(_beat_name(folder, epoch))
    except FileNotFoundError:
        return b""


def _silence(store: Store, folder: str, epoch: int, holder: dict[str, Any], now: float) -> float:
    """Seconds since the last sign of life; infinite once released."""
    beat: Any = None
    with contextlib.suppress(orjson.JSONDecodeError):
        beat = orjson.loads(_read_beat(store, folder, epoch))
    if not isinstance(beat, dict):  # none yet, or torn
        beat = {"at": holder.get("claimed_at", 0.0)}
    if beat.get("released"):
        return float("inf")
    return max(0.0, now - float(beat.get("at", 0.0)))
