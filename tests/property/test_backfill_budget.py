"""Backfills of random ranges, prices and budgets: what is spent, and what is published."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rerank_jobs.backfill import count_spent, fits
from rerank_jobs.config import Job
from rerank_jobs.storage import LocalStore, open_store
from tests.builders import make_job
from tests.unit.ledger.kit import PLAN, put_payment

START = 1_800_000_000.0
RUNS = 8


@dataclass(slots=True)
class Range:
    """Partitions, newest first; the most that each may cost, and what of that is paid already."""

    job: Job
    draw: random.Random
    most_usd: dict[str, float]
    paid_usd: dict[str, float] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    payments: int = 0

    def pay(self, partition: str, now: float) -> bool:
        """Work on a partition: it pays some of what it may, all of it or less; say if it ended."""
        rest = self.most_usd[partition] - self.paid_usd.get(partition, 0.0)
        usd = round(rest * self.draw.random(), 6)
        store = open_store(self.job.state_root)
        assert isinstance(store, LocalStore)
        self.payments += 1
        put_payment(store, f"{partition}/run/{PLAN}/00000", usd, now, sequence=self.payments)
        self.paid_usd[partition] = self.paid_usd.get(partition, 0.0) + usd
        return self.draw.random() > 0.3

    def run(self, budget: float, since: float) -> list[str]:
        """Run a backfill by the rule; return what it admitted."""
        admitted = []
        for number, partition in enumerate(self.most_usd):
            if partition in self.published:
                continue
            left = budget - count_spent(self.job, list(self.most_usd), since)
            rest = self.most_usd[partition] - self.paid_usd.get(partition, 0.0)
            if not fits(rest, left):
                break
            admitted.append(partition)
            if self.pay(partition, since + number):
                self.published.append(partition)
        return admitted


@pytest.mark.parametrize("seed", range(15))
def test_no_backfill_spends_more_than_its_budget(tmp_path: Path, seed: int) -> None:
    """Of many runs each stays within its own, admits newest first, and stops only if it must."""
    draw = random.Random(seed)
    days = [f"2026-11-{day:02d}" for day in range(draw.randint(1, 9), 0, -1)]
    world = Range(make_job(tmp_path), draw, {day: round(draw.uniform(0, 2), 6) for day in days})
    for number in range(RUNS):
        since, budget = START + 100 * number, draw.choice([0.0, 0.5, 1.0, 3.0, 9.0])
        waiting = [day for day in days if day not in world.published]
        admitted = world.run(budget, since)
        spent = count_spent(world.job, days, since)
        assert spent <= budget + 1e-6
        assert admitted == waiting[: len(admitted)]
        if len(admitted) < len(waiting):
            first = waiting[len(admitted)]
            rest = world.most_usd[first] - world.paid_usd.get(first, 0.0)
            assert rest > budget - spent - 1e-6
