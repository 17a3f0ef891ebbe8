"""Outcomes to seal, and a disk that fails when it is told to."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque

import pyarrow as pa

from rerank_jobs.ledger.segments import (
    _NO_DIGEST,
    decode_segment,
    encode_segment,
    segment_name,
)
from rerank_jobs.model import Failed, Outcome, Passage, Request, Scored, Usage
from rerank_jobs.storage import LocalStore, Put, read_json, seal_json

PLAN = "0" * 32
FOLDER = f"_all/run/{PLAN}/00000"
EPOCH = 1_800_000_000.0
CANARY = "canaryquagga"


def make_request(number: int, passages: int = 3) -> Request:
    """Return request ``number``: its query and its passages are named by their keys."""
    return Request(
        number=number,
        query_key=number.to_bytes(16, "big"),
        query=f"{CANARY} query {number}",
        passages=tuple(
            Passage(index.to_bytes(16, "big"), f"{CANARY} text {index}", 1, 8)
            for index in range(passages)
        ),
        search_units=1,
    )


def make_scored(
    number: int,
    *,
    passages: int = 3,
    score: float = 0.5,
    usd: float = 0.001,
    units: int | None = 1,
    received_at: float = EPOCH,
    model: str = "model-1",
) -> Scored:
    """Return a paid reply; passage i scores ``score + i / 1000``."""
    return Scored(
        request=make_request(number, passages),
        scores=tuple(score + index / 1000 for index in range(passages)),
        usage=Usage(search_units=units, total_tokens=10, cost_usd=usd),
        cost_usd=usd,
        cost_estimated=False,
        response_id=f"gen-{number}",
        model=model,
        provider="Provider",
        attempts=1,
        latency_seconds=0.1,
        received_at=received_at,
    )


def make_failed(number: int, *, passages: int = 3, code: str = "http_400") -> Failed:
    """Return a permanent refusal."""
    return Failed(make_request(number, passages), code, attempts=1, received_at=EPOCH)


def put_segment(
    store: LocalStore,
    outcomes: list[Outcome],
    *,
    folder: str = FOLDER,
    epoch: int = 1,
    sequence: int = 0,
    plan_id: str = PLAN,
) -> str:
    """Create a segment; return its name."""
    name = segment_name(folder, epoch, sequence)
    store.put_if_absent(name, encode_segment(outcomes, plan_id))
    return name


def put_payment(store: LocalStore, folder: str, usd: float, at: float, sequence: int = 0) -> str:
    """Create a segment with one reply that came ``at`` and was sealed at once; return its name."""
    outcomes: list[Outcome] = [make_scored(1, usd=usd, received_at=at)]
    name = put_segment(store, outcomes, folder=folder, sequence=sequence)
    os.utime(store.fetch(name), (at, at))
    return name


def put_record(store: LocalStore, folder: str, unknown_usd: float, at: float) -> None:
    """Create the record of a run that ended ``at`` with so much money of unknown fate."""
    document = {"epoch": 1, "ended_at": at, "totals": {"unknown_usd": unknown_usd}}
    name = f"{folder}/run-00000001.json"
    store.put_if_absent(name, seal_json(document))
    os.utime(store.fetch(name), (at, at))


def age_spending(store: LocalStore, seconds: float) -> None:
    """Move all that a state root has spent back in time, as if everything had happened earlier."""
    for entry in store.entries():
        if entry.name.endswith(".arrow") and "/seg/" in entry.name:
            table = decode_segment(store.read(entry.name))
            column = table.schema.get_field_index("received_at")
            instants = table.column(column).cast(pa.int64()).to_numpy() - int(seconds * 1e6)
            moved = pa.array(instants).cast(table.schema.field(column).type)
            store.put(entry.name, seal_table(table.set_column(column, "received_at", moved)))
        elif entry.name.rpartition("/")[2].startswith("run-"):
            record = read_json(store, entry.name)
            record["ended_at"] -= seconds
            store.put(entry.name, seal_json(record))


def seal_table(table: pa.Table) -> bytes:
    schema = table.schema.with_metadata({"sha256": _NO_DIGEST})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.cast(schema))
    data = bytes(sink.getvalue())
    return data.replace(_NO_DIGEST, hashlib.sha256(data).hexdigest().encode())


class BadDisk(LocalStore):
    """Each put takes the next of ``moods``: ok, fail, or after (it fails, but took effect)."""

    def __init__(self, location: str, *moods: str) -> None:
        super().__init__(location)
        self.moods = deque(moods)

    def put_if_absent(self, name: str, data: bytes) -> Put:
        mood = self.moods.popleft() if self.moods else "ok"
        if mood == "fail":
            raise OSError(28, "no space left on device")
        put = super().put_if_absent(name, data)
        if mood == "after":
            raise OSError(5, "input/output error")
        return put


class SlowDisk(LocalStore):
    """Puts wait until they are let through; ``entered`` is set while one waits."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.entered = threading.Event()
        self.gate = threading.Event()

    def put_if_absent(self, name: str, data: bytes) -> Put:
        self.entered.set()
        assert self.gate.wait(timeout=20)
        return super().put_if_absent(name, data)
