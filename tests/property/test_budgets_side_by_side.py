"""Budgets under many owners that claim, count, pay, die and end in any order."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rerank_jobs.budgets import read_caps
from rerank_jobs.config import Job
from rerank_jobs.errors import Busy
from rerank_jobs.ledger.claims import SILENCE_SECONDS, Claim, acquire
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.ledger.segments import encode_segment, segment_name
from rerank_jobs.ledger.spending import sum_payments
from rerank_jobs.storage import LocalStore, Put
from tests.builders import make_job
from tests.unit.ledger.kit import PLAN, make_scored

START = datetime(2027, 3, 30, 22, tzinfo=UTC).timestamp()
DAY_USD, MONTH_USD = 5.0, 8.0
SHARDS, STEPS = 5, 100


class DatedStore(LocalStore):
    """A store whose files are dated by a clock of the test's own."""

    now = START

    def put_if_absent(self, name: str, data: bytes) -> Put:
        created = super().put_if_absent(name, data)
        os.utime(self.fetch(name), (self.now, self.now))
        return created

    def put(self, name: str, data: bytes) -> None:
        super().put(name, data)
        os.utime(self.fetch(name), (self.now, self.now))


@dataclass(slots=True)
class Owner:
    """Whoever works on a shard at the moment, and what it may still spend once it has counted."""

    claim: Claim
    most: float | None = None


@dataclass(slots=True)
class World:
    """Shards with an owner each, or none; time passes with every step."""

    store: DatedStore
    job: Job
    draw: random.Random
    allowances: list[float]
    owners: dict[int, Owner] = field(default_factory=dict)
    paid: list[tuple[float, float]] = field(default_factory=list)
    names: int = 0

    def step(self) -> None:
        """Let some time pass, and one shard's owner do the next thing or something unforeseen."""
        self.store.now += self.draw.choice([0, 1, 30, 60, 4000])
        for alive in self.owners.values():
            alive.claim.beat()
        shard = self.draw.randrange(SHARDS)
        owner = self.owners.get(shard)
        if owner is None:
            self.begin(shard)
        elif owner.most is None:
            self.count(shard, owner)
        elif owner.most < 1e-6:  # it can send nothing more, and stops
            self.end(shard, owner, dies=False)
        elif self.draw.random() < 0.2:
            self.end(shard, owner, dies=self.draw.random() < 0.5)
        else:
            self.pay(shard, owner)

    def begin(self, shard: int) -> None:
        self.names += 1
        name = make_airflow_owner("dag", f"run-{self.names}", "score", shard)
        reserved = self.allowances[shard]
        try:
            claim = acquire(
                self.store,
                folder(shard),
                name,
                clock=lambda: self.store.now,
                watch=lambda _: None,
                reserved_usd=reserved,
            )
        except Busy:
            return
        self.owners[shard] = Owner(claim)

    def count(self, shard: int, owner: Owner) -> None:
        caps = read_caps(self.job, self.store, self.store.now, ours=folder(shard))
        rest = self.allowances[shard] - sum_payments(self.store, folder(shard))
        owner.most = min(rest, *(cap.left_usd for cap in caps))

    def pay(self, shard: int, owner: Owner) -> None:
        usd = round(self.draw.choice([0.1, 0.5, 1.0]) * max(0.0, owner.most or 0.0), 6)
        owner.most = (owner.most or 0.0) - usd
        self.paid.append((self.store.now, usd))
        reply = make_scored(1, usd=usd, received_at=self.store.now)
        name = segment_name(folder(shard), owner.claim.epoch, len(self.paid))
        self.store.put_if_absent(name, encode_segment([reply], PLAN))

    def end(self, shard: int, owner: Owner, *, dies: bool) -> None:
        """Release the claim, or die: then it is silent from now on."""
        if dies:
            self.store.now += self.draw.choice([0.0, SILENCE_SECONDS])
        else:
            with owner.claim:
                pass
        del self.owners[shard]


def folder(shard: int) -> str:
    """Return a shard's folder; every shard is of a partition of its own."""
    return f"p{shard}/run/{PLAN}/00000"


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_events_passes_a_budget(tmp_path: Path, seed: int) -> None:
    """Five shards worth more than day and month allow pass neither, also over a month's end.

    Whatever the order of claims, counts, payments, deaths and ends; some money is used in each.
    """
    draw = random.Random(seed)
    budget = {"max_usd_per_day": DAY_USD, "max_usd_per_month": MONTH_USD}
    job = make_job(tmp_path, endpoint={"url": "http://127.0.0.1:9"}, budget=budget)
    allowances = [draw.uniform(1.0, 4.5) for _ in range(SHARDS)]
    world = World(DatedStore(str(tmp_path / "state")), job, draw, allowances)
    for _ in range(STEPS):
        world.step()
    days: dict[str, float] = defaultdict(float)
    for at, usd in world.paid:
        days[f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"] += usd
    march = sum(usd for day, usd in days.items() if "-03-" in day)
    assert max(days.values()) <= DAY_USD + 1e-6
    assert march <= MONTH_USD + 1e-6
    assert sum(days.values()) > 0.5
