"""Spending: all that a state root paid since an instant, and all that its live runs may yet pay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rerank_jobs.ledger.claims import SILENCE_SECONDS, acquire
from rerank_jobs.ledger.owners import make_airflow_owner
from rerank_jobs.ledger.segments import encode_segment
from rerank_jobs.ledger.spending import (
    CLOCK_SLACK_SECONDS,
    Spending,
    count_spending,
    sum_payments,
)
from rerank_jobs.storage import Entry, LocalStore, seal_json
from tests.unit.ledger.kit import (
    PLAN,
    make_failed,
    make_scored,
    put_payment,
    put_record,
    put_segment,
)

NOW = datetime(2027, 3, 14, 12, tzinfo=UTC).timestamp()
DAY = datetime(2027, 3, 14, tzinfo=UTC).timestamp()
MONTH = datetime(2027, 3, 1, tzinfo=UTC).timestamp()

ONE = f"a/run/{PLAN}/00000"
TWO = f"b/run/{PLAN}/00000"

ALICE = make_airflow_owner("dag", "run-1", "score", 0)
BOB = make_airflow_owner("dag", "run-2", "score", 0)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path))


def count(store: LocalStore, *since: float, ours: str = TWO, now: float = NOW) -> Spending:
    """Count what was spent since some instants, by default since the day began."""
    found = count_spending(store, since or (DAY,), now, ours=ours)
    paid = tuple(round(usd, 9) for usd in found.paid_usd)
    return Spending(paid, round(found.reserved_usd, 9))


def test_an_empty_or_missing_state_root_spent_nothing(tmp_path: Path) -> None:
    """Before anything is paid there is nothing to count, and no folder is made."""
    assert count(LocalStore(str(tmp_path / "gone"))) == Spending((0.0,), 0.0)
    assert not (tmp_path / "gone").exists()


def test_a_reply_counts_from_the_very_instant_of_the_border(store: LocalStore) -> None:
    """A reply at 00:00:00.000000 belongs to the new day and month, one a microsecond before not."""
    put_payment(store, ONE, 0.1, DAY, sequence=1)
    put_payment(store, ONE, 0.2, DAY - 1e-6, sequence=2)
    put_payment(store, ONE, 0.4, MONTH, sequence=3)
    put_payment(store, ONE, 0.8, MONTH - 1e-6, sequence=4)
    assert count(store, DAY, MONTH).paid_usd == (0.1, 0.7)


def test_one_segment_over_midnight_is_counted_reply_by_reply(store: LocalStore) -> None:
    """Rows of one segment count by their own instants; a refusal costs nothing."""
    replies = [make_scored(n, usd=0.1 * 2**n, received_at=DAY - 1 + n) for n in range(3)]
    name = put_segment(store, [*replies, make_failed(9)], folder=ONE)
    os.utime(store.fetch(name), (DAY + 2, DAY + 2))
    assert count(store).paid_usd == (0.6,)


def test_every_partition_plan_and_shard_of_the_state_root_counts(store: LocalStore) -> None:
    """Spending knows no job, partition or plan; that a plan is retired changes nothing."""
    folders = [
        f"{partition}/run/{plan}/{shard:05d}"
        for partition in ("_all", "eu|2027-03-14", "run")
        for plan in (PLAN, "f" * 32)
        for shard in (0, 7)
    ]
    for folder in folders:
        put_payment(store, folder, 0.01, NOW - 60)
    store.put(f"{ONE}/work.passages-00.arrow", b"no segment")
    store.put("library/x/scores-00.parquet", b"no segment")
    assert count(store).paid_usd == (0.12,)
    assert sum_payments(store, f"_all/run/{PLAN}") == pytest.approx(0.02)


def test_money_of_unknown_fate_counts_when_its_run_ended(store: LocalStore) -> None:
    """A timeout may have been billed: it counts as spent on the day on which its run ended."""
    put_record(store, ONE, 0.25, DAY + 1)
    put_record(store, TWO, 0.5, DAY - 1)
    assert count(store, DAY, MONTH).paid_usd == (0.25, 0.75)


def test_a_record_without_an_instant_counts_by_its_file(store: LocalStore) -> None:
    """Records of an earlier version did not say when they ended: the file's own time stands in."""
    name = f"{ONE}/run-00000001.json"
    store.put(name, seal_json({"totals": {"unknown_usd": 0.5}}))
    for at, expected in ((DAY + 5, 0.5), (DAY - 5, 0.0)):
        os.utime(store.fetch(name), (at, at))
        assert count(store).paid_usd == (expected,)


def test_damage_costs_only_its_own_file(store: LocalStore) -> None:
    """A torn segment or record is left out; all others are counted."""
    torn = put_payment(store, ONE, 1.0, NOW)
    store.put(torn, store.read(torn)[:-9])
    store.put(f"{ONE}/run-00000001.json", b"{")
    put_payment(store, TWO, 0.5, NOW)
    assert count(store).paid_usd == (0.5,)


class CountingStore(LocalStore):
    """Counts the objects that are read."""

    reads = 0

    def read(self, name: str) -> bytes:
        self.reads += 1
        return super().read(name)


def test_of_a_year_of_nights_only_the_windows_own_segments_are_read(tmp_path: Path) -> None:
    """Of 3,650 segments a day's count reads at most the 10 of its night, a month's its nights'."""
    store = CountingStore(str(tmp_path))
    for night in range(365):
        at = NOW - 3600 - night * 86_400
        data = encode_segment([make_scored(1, usd=0.001, received_at=at)], PLAN)
        folder = tmp_path / f"ds{night}/run/{PLAN}/00000/seg"
        folder.mkdir(parents=True)
        for sequence in range(10):
            path = folder / f"00000001-{sequence:06d}.arrow"
            path.write_bytes(data)
            os.utime(path, (at + 5, at + 5))
    assert count(store).paid_usd == (0.01,)
    assert store.reads == 10
    assert count(store, DAY, MONTH).paid_usd == (0.01, 0.14)
    assert store.reads == 10 + 140


def test_a_file_that_another_clock_dates_is_not_overlooked(store: LocalStore) -> None:
    """A file server whose clock is behind by less than an hour hides no payment."""
    name = put_payment(store, ONE, 0.5, DAY + 1)
    late = DAY + 2 - CLOCK_SLACK_SECONDS
    os.utime(store.fetch(name), (late, late))
    assert count(store).paid_usd == (0.5,)


def claim(store: LocalStore, usd: float, folder: str = ONE, at: float = NOW) -> None:
    """Claim a shard at an instant and give a sign of life."""
    held = acquire(store, folder, ALICE, clock=lambda: at, reserved_usd=usd)
    held.beat()
    for entry in store.entries(f"{folder}/claim"):
        os.utime(store.fetch(entry.name), (at, at))


def test_a_live_claim_reserves_what_its_shard_has_not_yet_paid(store: LocalStore) -> None:
    """A reservation shrinks by all that the shard has paid, by earlier owners and on other days."""
    claim(store, 5.0)
    assert count(store) == Spending((0.0,), 5.0)
    put_payment(store, ONE, 2.0, NOW)
    put_payment(store, ONE, 0.5, MONTH - 86_400, sequence=1)
    put_record(store, ONE, 0.25, NOW)
    assert count(store) == Spending((2.25,), 2.25)
    put_payment(store, ONE, 9.0, NOW, sequence=2)
    assert count(store) == Spending((11.25,), 0.0)


def test_a_claim_reserves_before_its_first_beat(store: LocalStore) -> None:
    """Between claiming and beating others count the reservation already."""
    acquire(store, ONE, ALICE, reserved_usd=5.0)
    now = datetime.now(UTC).timestamp()
    assert count(store, now, now=now).reserved_usd == 5.0


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (ONE, 0.0),
        (f"a/run/{PLAN}", 0.0),
        (f"a/run/{PLAN}/0000", 5.0),
        (f"a/run/{PLAN}/00001", 5.0),
        (TWO, 5.0),
    ],
)
def test_what_one_asks_for_oneself_is_not_reserved_by_others(
    store: LocalStore, ours: str, expected: float
) -> None:
    """The asker's own shard, or its own plan's shards, are left out, and no others."""
    claim(store, 5.0)
    assert count(store, ours=ours).reserved_usd == expected


def test_a_silent_claim_reserves_nothing(store: LocalStore) -> None:
    """A reservation counts until its owner was silent for 120 s, then what it sealed counts."""
    claim(store, 5.0, at=NOW - SILENCE_SECONDS + 1)
    put_payment(store, ONE, 1.0, NOW - SILENCE_SECONDS)
    assert count(store) == Spending((1.0,), 4.0)
    assert count(store, now=NOW + 1) == Spending((1.0,), 0.0)


def test_a_released_claim_reserves_nothing(store: LocalStore) -> None:
    """Who ends gives back at once what it did not spend."""
    with acquire(store, ONE, ALICE, reserved_usd=5.0):
        now = datetime.now(UTC).timestamp()
        assert count(store, now, now=now).reserved_usd == 5.0
    assert count(store, now, now=now).reserved_usd == 0.0


def test_only_the_newest_claim_of_a_shard_reserves(store: LocalStore) -> None:
    """Whoever was taken over has nothing reserved any more; its successor has."""
    claim(store, 5.0, at=NOW - 50)
    claim(store, 3.0)
    assert count(store).reserved_usd == 3.0


DIES_WITH_A_CLAIM = """
import sys
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.owners import make_process_owner
from rerank_jobs.storage import LocalStore
acquire(LocalStore(sys.argv[1]), sys.argv[2], make_process_owner(), reserved_usd=5.0).beat()
"""


def test_a_process_that_is_surely_dead_reserves_nothing(store: LocalStore) -> None:
    """A process of this host that ended without releasing does not keep money back for 120 s."""
    command = [sys.executable, "-c", DIES_WITH_A_CLAIM, store.location, ONE]
    subprocess.run(command, check=True, timeout=60)
    now = datetime.now(UTC).timestamp()
    assert count(store, now, now=now).reserved_usd == 0.0


class ListedThen(LocalStore):
    """Does something right after the whole root was listed: other processes do not stand still."""

    def __init__(self, location: str, then: Callable[[], object]) -> None:
        super().__init__(location)
        self.then = then

    def entries(self, prefix: str = "") -> list[Entry]:
        found = super().entries(prefix)
        if not prefix:
            self.then()
        return found


def test_a_shard_that_pays_and_ends_while_it_is_counted_is_counted(store: LocalStore) -> None:
    """Paid and released between the listing and the look at the claim, the money is not lost."""
    held = acquire(store, ONE, ALICE, reserved_usd=5.0)
    held.beat()
    now = datetime.now(UTC).timestamp()

    def pay_and_end() -> None:
        put_payment(store, ONE, 2.0, now)
        with held:
            pass

    watched = ListedThen(store.location, pay_and_end)
    assert count(watched, now - 1, now=now) == Spending((2.0,), 0.0)


def test_a_shard_that_pays_while_it_is_counted_is_counted_in_full(store: LocalStore) -> None:
    """What a live shard pays during the count is found as paid or as reserved, never as neither."""
    acquire(store, ONE, ALICE, reserved_usd=5.0).beat()
    now = datetime.now(UTC).timestamp()
    watched = ListedThen(store.location, lambda: put_payment(store, ONE, 2.0, now))
    found = count(watched, now - 1, now=now)
    assert found.paid_usd[0] + found.reserved_usd == 5.0


def test_of_two_that_claim_at_once_each_sees_the_other(store: LocalStore) -> None:
    """Both claims stand before either counts, so what both may spend is never above the budget."""
    acquire(store, ONE, ALICE, reserved_usd=3.0)
    acquire(store, TWO, BOB, reserved_usd=3.0)
    now = datetime.now(UTC).timestamp()
    budget = 5.0
    left = [budget - count(store, now, now=now, ours=ours).reserved_usd for ours in (ONE, TWO)]
    assert left == [2.0, 2.0]
    assert sum(left) <= budget


def test_a_month_is_counted_from_its_first_day(store: LocalStore) -> None:
    """A payment of each of the last 60 nights: those since the first of the month are summed."""
    for night in range(60):
        put_payment(store, ONE, 0.01, NOW - timedelta(days=night).total_seconds(), sequence=night)
    assert count(store, DAY, MONTH).paid_usd == (0.01, 0.14)
