"""A job of three shards run in this process under faults, and what must be true of it afterwards.

Two ways: on local folders, where everything is real; or simulated: stores in memory, the loop's
clock jumps, and the two pure functions that take DuckDB (planning a table, merging a shard) are
computed once for each distinct input. Claims read the scenario's clock in both.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow.parquet as pq
import pytest

import rerank_jobs.job
import rerank_jobs.parts
import rerank_jobs.planning
import rerank_jobs.publishing
import rerank_jobs.shard
from rerank_jobs.config import Job
from rerank_jobs.errors import RerankJobsError
from rerank_jobs.job import run_partition
from rerank_jobs.ledger.claims import SILENCE_SECONDS, Claim, acquire
from rerank_jobs.ledger.library import fetch_library, read_library
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.parts import open_work
from rerank_jobs.plan.build import Draft, build_plan
from rerank_jobs.plan.frozen import run_folder
from rerank_jobs.publish.generations import read_generations
from rerank_jobs.storage import LocalStore, Store
from tests.builders import make_job, make_rows, write_rows
from tests.faults.faulty_store import Call, Fault, FaultyStore, Injector
from tests.faults.memory_store import MemoryStore
from tests.unit.score.simulation import EPOCH, simulate

QUERIES, CANDIDATES = 6, 3
UNSAVED = 2
"""Replies that may be unsaved; one request is in flight at a time, and has ``CANDIDATES`` pairs."""

LOSS = (UNSAVED + 1) * CANDIDATES
"""Pairs that may be paid again for each process that ends or is overtaken with them unsealed."""

ME = make_airflow_owner("dag", "mine", "rerank", -1)
OTHER = make_airflow_owner("dag", "another", "rerank", -1)
TRIES = 4
ONE_REQUEST_USD = 0.001


@dataclass(slots=True)
class Bill(httpx.AsyncBaseTransport):
    """An endpoint that scores at once and counts every pair that it was paid for."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    requests: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)
        pairs = [(body["query"], text) for text in body["documents"]]
        self.pairs.update(pairs)
        self.requests += 1
        results = [
            {"index": index, "relevance_score": _score(*pair)} for index, pair in enumerate(pairs)
        ]
        usage = {"search_units": 1, "cost": ONE_REQUEST_USD}
        reply = {"id": "gen", "model": "m", "results": results, "usage": usage}
        return httpx.Response(200, json=reply)

    @property
    def repeated(self) -> int:
        """Pairs paid beyond the first time."""
        return sum(self.pairs.values()) - len(self.pairs)


def _score(query: str, text: str) -> float:
    return hashlib.sha256(f"{query}|{text}".encode()).digest()[0] / 255


@dataclass
class World:
    """One job with its stores, endpoint, clock and whoever runs it now."""

    job: Job
    injector: Injector
    files: Path | None
    bill: Bill = field(default_factory=Bill)
    stores: dict[str, Store] = field(default_factory=dict)
    now: float = EPOCH
    owner: dict[str, Any] = field(default_factory=lambda: ME)
    competitor_errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Let another owner finish the job whenever this process stands still."""
        self.injector.stall = self._let_another_finish

    def tell_time(self) -> float:
        """Return the time that claims see."""
        return self.now

    def wait(self, seconds: float) -> None:
        """Let the time pass that claims see."""
        self.now += seconds

    def acquire(self, *arguments: Any, **options: Any) -> Claim:
        """Claim as the pipeline does, on the world's clock; a beat in between is not numbered."""
        claim = acquire(*arguments, clock=self.tell_time, watch=self.wait, **options)
        claim.beat_seconds = 1e6
        return claim

    def open(self, location: str) -> Store:
        """Return the store of a location, behind the injector."""
        if location not in self.stores:
            if self.files is None:
                self.stores[location] = LocalStore(location)
            else:
                self.stores[location] = MemoryStore(location, self.files, self.tell_time)
        return FaultyStore(self.stores[location], self.injector)

    def inner(self, location: str) -> Store:
        """Return the store of a location without the injector."""
        self.open(location)
        return self.stores[location]

    def run(self) -> str | None:
        """Run the job; return the error that ended it, in a line.

        Raises:
            Exception: an error that is neither ours nor of the disk.

        """
        try:
            run_partition(self.job)
        except (RerankJobsError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _let_another_finish(self) -> None:
        """Another owner waits until this one has surely been silent, and runs the job."""
        self.wait(SILENCE_SECONDS + 1)
        mine, self.owner = self.owner, OTHER
        thread = threading.Thread(target=self._compete)
        thread.start()
        thread.join()
        self.owner = mine

    def _compete(self) -> None:
        try:
            error = self.run()
        except Exception as failure:  # noqa: BLE001 - judged by the scenario
            error = f"UNTYPED {type(failure).__name__}: {failure}"
        if error is not None:
            self.competitor_errors.append(error)


@contextlib.contextmanager
def in_force(world: World) -> Iterator[None]:
    """Make this process's runs use the world's stores, endpoint, clock and owner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENROUTER_API_KEY", "sk-or-v1-canarykey")
        for name, module in list(sys.modules.items()):
            if name.startswith("rerank_jobs.") and hasattr(module, "open_store"):
                patch.setattr(module, "open_store", world.open)
        patch.setattr(rerank_jobs.job, "open_transport", lambda _job: world.bill)
        for module in (rerank_jobs.shard, rerank_jobs.publishing):
            patch.setattr(module, "acquire", world.acquire)
        for module in (rerank_jobs.job, rerank_jobs.publishing):
            patch.setattr(module, "make_process_owner", lambda: world.owner)
        if world.files is not None:
            patch.setattr(asyncio, "run", simulate)
            patch.setattr(rerank_jobs.planning, "build_plan", _build_once)
            patch.setattr(rerank_jobs.parts, "_write_part", _write_once)
        yield


_drafts: dict[tuple[Any, ...], Draft] = {}
_merged: dict[tuple[Any, ...], tuple[bytes, tuple[int, Any, dict[str, int]]]] = {}
_kept: list[Any] = []
_build_plan, _write_part = build_plan, rerank_jobs.parts._write_part


def _build_once(job: Job, table: Any, *, salt: bytes, library: Any, **options: Any) -> Draft:
    """Plan as ``build_plan`` does; the same table and library from memory the second time."""
    folder: Path = options["folder"]
    used = library and library.partition("received_at >=")[0]  # names files by their digests
    key = (salt, used, *((file.name, file.sha256) for file in table.files))
    if key not in _drafts:
        _kept.append(tempfile.TemporaryDirectory(prefix="rerank-faults-"))
        kept = Path(_kept[-1].name) / "draft"
        draft = _build_plan(job, table, salt=salt, library=library, **options)
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("scratch*", "lock", "spill"))
        _drafts[key] = replace(draft, folder=kept)
    return _drafts[key]


def _write_once(
    job: Job, plan: Any, shard: Any, store: Store, scratch: Path, path: Path
) -> tuple[int, Any, dict[str, int]]:
    """Merge as the pipeline does; from memory where plan, shard and sealed scores are the same.

    The injector sees the calls of a merge both times; when a reply came is in no part.
    """
    for kind in ("candidates", "passages", "schedule"):
        open_work(store, shard.files[kind])
    folder = run_folder(plan.partition, plan.plan_id, shard.number)
    pairs = load_segments(store, folder, plan.plan_id).pairs.drop_columns(["received_at"])
    open_work(store, shard.files["rows"])
    rows = sorted(repr(row) for row in pairs.to_pylist())
    key = (job.name, plan.plan_id, shard.number, *(f.sha256 for f in shard.files.values()), *rows)
    if key not in _merged:
        assert isinstance(store, FaultyStore)
        found = _write_part(job, plan, shard, store.inner, scratch, path)
        _merged[key] = (path.read_bytes(), found)
    data, found = _merged[key]
    path.write_bytes(data)
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished job left, without what may differ: clocks, write ids, what the way cost.

    ``published`` and ``rejected`` are the bytes of each file by name, ``facts`` the current
    manifest, ``scores`` the library's in order, ``paid`` the pairs that were sent at least once.
    """

    published: Mapping[str, bytes]
    rejected: Mapping[str, bytes]
    generation: int
    facts: Mapping[str, Any]
    scores: tuple[float, ...]
    with_text: tuple[str, ...]
    spent_requests: int
    paid: int


@dataclass(frozen=True, slots=True)
class Report:
    """How a scenario went: ``problems`` is empty if all that must hold held."""

    faults: Mapping[int, Fault]
    met: tuple[Call, ...]
    errors: tuple[str, ...]
    repeated: int
    problems: tuple[str, ...]


def write_table(folder: Path, candidates: int = CANDIDATES) -> None:
    """Write the job's table, with one row that is rejected; more candidates keep the first ones."""
    rows = make_rows(QUERIES, CANDIDATES)
    queries = {row["query_id"]: row["query"] for row in rows}
    for extra in range(candidates - CANDIDATES):
        for name, query in queries.items():
            added = {"query_id": name, "query": query, "document_id": f"x{extra}"}
            rows.append({**added, "document": f"late {name} {extra}", "first_stage_score": 0.5})
    rows.append({**rows[0], "document_id": "blank", "document": " "})
    write_rows(folder / "candidates.parquet", rows)


def make_world(
    folder: Path,
    faults: Mapping[int, Fault] | None = None,
    *,
    files: Path | None = None,
    objects: Mapping[str, Mapping[str, tuple[bytes, float]]] | None = None,
) -> World:
    """Return a job over the table in ``folder``; in memory where ``files`` is a folder for fetches.

    ``objects`` are those that the stores in memory begin with, by location.
    """
    job = make_job(
        folder,
        endpoint={
            "url": "http://127.0.0.1:9/v1",
            "requests_per_minute": 600_000,
            "max_concurrency": 1,
            "patience_seconds": 0,
        },
        ledger={"max_unsaved_replies": UNSAVED, "max_unsaved_seconds": 1000},
        shards={"rows_per_shard": 7},
    )
    world = World(job, Injector(faults or {}), files)
    for location, held in (objects or {}).items():
        store = world.inner(location)
        assert isinstance(store, MemoryStore)
        store.objects = dict(held)
    return world


def read_outcome(world: World) -> Outcome:
    """Read what a finished job left, past the injector."""
    job = world.job
    state = world.inner(job.state_root)
    generations = read_generations(state, "_all")
    document = generations[-1].document
    moving = {"write_id", "created_at", "spent", "sha256"}
    library = read_library(state, document["scorer_id"])
    columns = ["query_key", "passage_key", "score"]
    scores = {
        (row["query_key"], row["passage_key"]): row["score"]
        for path in fetch_library(state, library)
        for row in pq.read_table(path, columns=columns).to_pylist()
    }
    names = [entry.name for entry in state.entries()]
    return Outcome(
        published=_read_all(world.inner(job.output_root)),
        rejected=_read_all(world.inner(job.rejected_root)),
        generation=generations[-1].number,
        facts={name: value for name, value in document.items() if name not in moving},
        scores=tuple(sorted(scores.values())),
        with_text=tuple(name for name in names if "/work." in name),
        spent_requests=document["spent"]["requests"],
        paid=len(world.bill.pairs),
    )


def _read_all(store: Store) -> dict[str, bytes]:
    return {entry.name: store.read(entry.name) for entry in store.entries()}


def play(world: World, reference: Outcome, *, allowed: int) -> Report:
    """Run a job until it ends well, at most ``TRIES`` times, and judge what it left.

    ``allowed`` pairs may have been paid more than once.
    """
    errors: list[str] = []
    problems: list[str] = []
    with in_force(world):
        for _ in range(TRIES):
            try:
                error = world.run()
            except Exception as failure:  # noqa: BLE001 - that is what is looked for
                problems.append(f"untyped {type(failure).__name__}: {failure}")
                error = "untyped"
            if error is None:
                break
            errors.append(error)
        else:
            problems.append(f"not finished after {TRIES} runs: {errors[-1]}")
    problems += [error for error in world.competitor_errors if error.startswith("UNTYPED")]
    if not problems:
        problems += compare(read_outcome(world), reference, world.bill, allowed)
    faults, calls = world.injector.faults, world.injector.calls
    met = tuple(calls[index] for index in sorted(faults) if index < len(calls))
    every = (*errors, *world.competitor_errors)
    return Report(faults, met, every, world.bill.repeated, tuple(problems))


def compare(
    found: Outcome, reference: Outcome, bill: Bill, allowed: int, lost: int = 0
) -> Iterator[str]:
    """Yield every way in which an outcome is not the reference's.

    ``allowed`` pairs may have been paid again, ``lost`` may be missing in the library.
    """
    for name in ("published", "rejected", "generation", "facts", "with_text", "paid"):
        if getattr(found, name) != getattr(reference, name):
            yield f"{name} differ: {_show(getattr(found, name))}"
    missing = Counter(reference.scores) - Counter(found.scores)
    if missing.total() > lost or Counter(found.scores) - Counter(reference.scores):
        yield f"scores differ: {_show(found.scores)}"
    if bill.repeated > allowed:
        yield f"{bill.repeated} pairs were paid again, {allowed} may be"
    if not lost and not bill.repeated and found.spent_requests != bill.requests:
        yield f"{bill.requests} requests were billed, the manifest says {found.spent_requests}"


def _show(value: object) -> str:
    return str(sorted(value) if isinstance(value, Mapping) else value)[:200]


def count_calls(world: World) -> Outcome:
    """Run a job to its end; its injector then holds every call, the outcome is the reference."""
    with in_force(world):
        assert world.run() is None
    return read_outcome(world)
