"""Garbage collection among runs, crashes, samples, ways back and erasures in any order.

What must survive is checked here by other means than the rule uses: manifests and plans are read
and hashed, the library is read whole, money is counted, and no pair is ever paid twice.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from rerank_jobs import embedded, publishing
from rerank_jobs.collecting import collect
from rerank_jobs.endpoint.app import create_app
from rerank_jobs.erasing import erase
from rerank_jobs.errors import Stopped
from rerank_jobs.job import open_roots, plan_partition, run_partition, score_partition_shard
from rerank_jobs.ledger.claims import Claim, acquire
from rerank_jobs.ledger.library import list_scorers, read_library
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.ledger.segments import decode_segment
from rerank_jobs.ledger.spending import count_spending
from rerank_jobs.plan.identity import compute_key
from rerank_jobs.publish.generations import read_generations
from rerank_jobs.publish.retention import is_retained
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.publishing import restore_partition
from rerank_jobs.storage import LocalStore, read_json, seal_json, sha256_of_file
from rerank_jobs.tables.matching import Wanted
from rerank_jobs.upkeep import compact_unfinished
from tests.builders import make_job, make_rows, write_rows
from tests.unit.ledger.kit import age_spending

HOUR, DAY = 3600.0, 86_400.0
KEEP_GENERATIONS = 1


@functools.cache
def make_paid_app() -> Any:
    return create_app(price_per_search_usd=0.001)


class Collecting(RuleBasedStateMachine):
    """One partition of one job; time passes by making everything older."""

    kinds: ClassVar[set[str]] = set()
    """Kinds of garbage that were collected, in all histories."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rerank-jobs-garbage-"))
        self.patch = mock.patch.object(embedded, "_load_app", make_paid_app)
        self.patch.start()
        self.job = make_job(
            self.folder,
            reuse={"mode": "strict", "max_age_days": 36_500},
            publish={"keep_generations": KEEP_GENERATIONS},
        )
        self.state = LocalStore(self.job.state_root)
        self.paid: set[tuple[bytes, bytes]] = set()
        self.waiting: str | None = None  # the newest plan, while nothing newer was made
        self.claim: Claim | None = None
        self.known: set[str] = set()  # segments that were looked at
        self.change_input(0)
        self.run()

    def teardown(self) -> None:
        """Finish what is left: the newest table must still come out, paid once."""
        self.release()
        self.run()
        roots = open_roots(self.job)
        current = read_generations(self.state, "_all")[-1]
        assert verify_generation(self.job, roots, current).problems == ()
        self.patch.stop()
        shutil.rmtree(self.folder)

    @rule(seed=st.integers(0, 2))
    def change_input(self, seed: int) -> None:
        rows = [*make_rows(2, 2, seed=seed), *make_rows(3, 2, seed=9)]
        for row in rows[:4]:
            row["query_id"] = "p" + str(row["query_id"])
        write_rows(self.folder / "candidates.parquet", rows)

    @rule()
    @precondition(lambda self: self.claim is None)
    def run(self) -> None:
        run_partition(self.job)
        self.waiting = None
        self.check_paid_once()

    @rule()
    @precondition(lambda self: self.claim is None)
    def sample(self) -> None:
        run_partition(self.job, limit_queries=1)
        self.check_paid_once()

    @rule()
    def plan(self) -> None:
        """Freeze a plan; one that was frozen before may be older than others, and go."""
        before = {entry.name for entry in self.state.entries("_all/plan")}
        planned = plan_partition(self.job)
        if planned.plan is not None and f"_all/plan/{planned.plan_id}.json" not in before:
            self.waiting = planned.plan_id

    @rule()
    @precondition(lambda self: self.claim is None)
    def score_and_stop(self) -> None:
        """Score a part: the run ends after its first reply, what it paid is sealed."""
        self.plan()
        plan = plan_partition(self.job).plan
        if plan is None:
            return

        def end(_: object) -> None:
            raise Stopped("as if killed")

        with contextlib.suppress(Stopped):
            score_partition_shard(self.job, plan, 0, observe=end)
        self.check_paid_once()

    @rule(seed=st.integers(0, 2), other=st.integers(0, 2))
    @precondition(lambda self: self.claim is None)
    def abandon(self, seed: int, other: int) -> None:
        """Score a part of a table's plan, and turn to another table a day later."""
        self.change_input(seed)
        self.score_and_stop()
        for entry in self.state.entries("_all/plan"):
            plan = read_json(self.state, entry.name)
            made = datetime.fromisoformat(plan["created_at"]) - timedelta(days=1)
            self.state.replace(entry.name, seal_json({**plan, "created_at": made.isoformat()}))
            os.utime(self.state.fetch(entry.name), (entry.modified, entry.modified))
        self.waiting = None
        self.change_input(other)
        self.plan()

    @rule(seed=st.integers(0, 2))
    @precondition(lambda self: self.claim is None)
    def die_before_retiring(self, seed: int) -> None:
        """Publish, and die before what the plan alone needed is cleared away."""
        self.change_input(seed)
        with (
            mock.patch.object(publishing, "retire_plan", side_effect=Stopped("as if killed")),
            contextlib.suppress(Stopped),
        ):
            run_partition(self.job)
        self.waiting = None
        self.check_paid_once()

    @rule()
    @precondition(lambda self: self.waiting is not None and self.claim is None)
    def hold(self) -> None:
        """Let another owner work on the newest plan."""
        folder = f"_all/run/{self.waiting}/00000"
        owner = make_airflow_owner("dag", "run", "task", 0)
        self.claim = acquire(self.state, folder, owner)
        self.claim.beat()

    @rule()
    @precondition(lambda self: self.claim is not None)
    def release(self) -> None:
        if self.claim is not None:
            self.claim.__exit__(None, None, None)
            self.claim = None

    @rule()
    @precondition(lambda self: self.claim is None)
    def go_back(self) -> None:
        for one in read_generations(self.state, "_all")[:-1]:
            if is_retained(self.state, one):
                restore_partition(self.job, "_all", one.number)
                self.waiting = None
                return

    @rule(query=st.sampled_from(["q0000", "q0002", "pq0001"]))
    @precondition(lambda self: self.claim is None)
    def erase(self, query: str) -> None:
        texts = {
            row["query"]
            for seed in (0, 1, 2, 9)
            for row in make_rows(2 if seed < 9 else 3, 2, seed=seed)
            if row["query_id"] == query.removeprefix("p")
        }
        erase(self.job, Wanted("query_id", frozenset({query})), write=True)
        salt = self.state.read("salt")
        gone = {compute_key(salt, text) for text in texts}
        self.paid = {pair for pair in self.paid if pair[0] not in gone}
        self.waiting = None

    @rule()
    def compact(self) -> None:
        compact_unfinished(self.state, "_all", read_generations(self.state, "_all"))

    @rule(days=st.sampled_from([0.1, 2.0, 40.0, 100.0]))
    @precondition(lambda self: self.claim is None)
    def pass_time(self, days: float) -> None:
        dates = {entry.name: entry.modified for entry in self.state.entries()}
        age_spending(self.state, days * DAY)
        for root in (self.job.state_root, self.job.output_root, self.job.rejected_root):
            for path in Path(root).rglob("*"):
                if path.is_file():
                    name = str(path.relative_to(root))
                    old = dates.get(name) if root == self.job.state_root else None
                    when = (old if old is not None else path.stat().st_mtime) - days * DAY
                    os.utime(path, (when, when))

    @rule(kind=st.sampled_from(["work", "part", "library", "temporary"]), number=st.integers(0, 3))
    def strand(self, kind: str, number: int) -> None:
        """Leave what a process leaves that dies while it works."""
        run = f"_all/run/{number:032x}/00000"
        name = {
            "work": f"{run}/work.rows-{number:08x}.arrow",
            "part": f"{run}/part-{number:08x}.parquet",
            "library": f"library/{number:032x}/scores-{number:016x}.parquet",
            "temporary": f"{run}/.tmp-{number:032x}",
        }[kind]
        self.state.put_if_absent(name, b"left behind")

    @rule(grace=st.sampled_from([0.0, HOUR, DAY]), keep=st.sampled_from([0.0, 10 * DAY, 62 * DAY]))
    def collect(self, grace: float, keep: float) -> None:
        files = self.list_reachable()
        scores, money = self.read_scores(), self.count_money()
        sealed = self.read_sealed()
        listed = {entry.name: entry for entry in self.state.entries()}
        dry = collect(self.job, grace=grace, keep=keep)
        assert {entry.name for entry in self.state.entries()} == set(listed)
        found = collect(self.job, grace=grace, keep=keep, delete=True)
        note(f"{len(found.garbage)} of {len(dry.garbage)} removed")
        self.kinds.update(item.kind for item in found.garbage)
        self.check_paid_once()
        for name, digest in files.items():
            assert Path(name).is_file(), f"{name} was reachable"
            assert sha256_of_file(Path(name)) == digest
        young = {n for n, e in listed.items() if e.modified > time.time() - grace + 60}
        assert young <= {entry.name for entry in self.state.entries()}
        after = self.read_scores()
        assert scores.items() <= after.items()
        assert sealed <= set(after) | self.read_sealed()
        assert self.count_money() == pytest.approx(money)
        if grace:  # without, the claim of this very collection is the next one's
            assert collect(self.job, grace=grace, keep=keep).garbage == ()

    def list_reachable(self) -> dict[str, str]:
        """Return files that must stay, with their digests, by reading manifests and plans."""
        names: set[str] = {f"{self.job.state_root}/FORMAT", f"{self.job.state_root}/salt"}
        generations = read_generations(self.state, "_all")
        names |= {f"{self.job.state_root}/{one.name}" for one in generations}
        for one in generations[-1 - KEEP_GENERATIONS :]:
            for part in one.parts + one.rejected:
                names.add(f"{self.job.state_root}/{part.source}")
        for part in generations[-1].parts:
            names.add(f"{self.job.output_root}/{part.name}")
        for part in generations[-1].rejected:
            names.add(f"{self.job.rejected_root}/{part.name}")
        if self.waiting is not None:
            name = f"_all/plan/{self.waiting}.json"
            plan = read_json(self.state, name)
            files = [file["name"] for shard in plan["shards"] for file in shard["files"].values()]
            names |= {f"{self.job.state_root}/{one}" for one in [name, *files]}
            run = self.state.entries(f"_all/run/{self.waiting}")
            names |= {f"{self.job.state_root}/{entry.name}" for entry in run}
        return {name: sha256_of_file(Path(name)) for name in names if Path(name).is_file()}

    def read_scores(self) -> dict[tuple[bytes, bytes], float]:
        found = {}
        for scorer in list_scorers(self.state):
            for file in read_library(self.state, scorer).files:
                path = self.state.fetch(file.name)
                assert sha256_of_file(path) == file.sha256
                for row in pq.read_table(path).to_pylist():
                    found[row["query_key"], row["passage_key"]] = row["score"]
        return found

    def read_sealed(self) -> set[tuple[bytes, bytes]]:
        pairs = load_segments(self.state, "_all/run").pairs
        scored = pairs.filter(pc.is_valid(pairs.column("score")))
        names = ("query_key", "passage_key")
        return set(zip(*(scored.column(name).to_pylist() for name in names), strict=True))

    def count_money(self) -> tuple[float, ...]:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        since = [today.timestamp(), today.replace(day=1).timestamp()]
        return count_spending(self.state, since, time.time(), ours="-").paid_usd

    def check_paid_once(self) -> None:
        """Look at replies that are new: no pair is in them that was paid for before."""
        listed = {entry.name for entry in self.state.entries("_all/run") if "/seg/" in entry.name}
        for name in sorted(listed - self.known):
            rows = decode_segment(self.state.read(name))
            for reply in rows.filter(pc.is_null(rows.column("error"))).to_pylist():
                pairs = {(reply["query_key"], key) for key in reply["passage_keys"]}
                if reply["planned_units"] == 0:
                    assert pairs <= self.paid, "what was taken over was never paid"
                    self.kinds.add("(taken over)")
                    continue
                assert not pairs & self.paid, "a pair was paid twice"
                self.paid |= pairs
        self.known = listed


def run_machine(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Collecting,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(
        f"{examples} histories of {steps} steps; collected: {', '.join(sorted(Collecting.kinds))}"
    )


def test_nothing_that_can_be_reached_is_deleted() -> None:
    """After any history what can be reached is whole; no pair was paid for twice."""
    run_machine(1, 6)


@pytest.mark.slow
def test_nothing_that_can_be_reached_is_deleted_in_many_histories() -> None:
    """The same, over longer histories and more of them, in which much is collected."""
    run_machine(30, 20)
    assert len(Collecting.kinds) >= 3
