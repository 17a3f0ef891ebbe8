"""The nightly job on two Celery workers, Postgres and Redis, one worker killed midway."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from cryptography.fernet import Fernet

from tests.cluster.stores import read_database, read_redis
from tests.dags.leaks import find_leaks, find_words
from tests.distributed.conftest import Night
from tests.distributed.scenario import (
    AT_RISK,
    DOCUMENTS,
    KEY,
    LATENCY,
    LIMIT,
    PAIRS,
    QUERY_CANARY,
    REQUESTS,
    SHARD_REQUESTS,
    WINDOW,
)

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.distributed]


def list_scoring(night: Night) -> dict[int, dict[str, Any]]:
    return {task["map_index"]: task for task in night.tasks if task["task_id"] == "rerank.score"}


def test_the_run_succeeds_though_a_worker_is_killed_while_it_scores(night: Night) -> None:
    """Both workers scored; the killed one's shards, and no others, took a second try elsewhere."""
    scoring = list_scoring(night)
    survivor = ({"worker-1", "worker-2"} - {night.victim}).pop()
    tries = {number: task["try_number"] for number, task in scoring.items()}
    print(f"\nkilled {night.victim} ({night.killed} processes) in shards {night.victims}: {tries}")
    assert night.state == "success"
    assert len(scoring) == len(SHARD_REQUESTS)
    assert 0 < len(night.victims) < len(scoring)
    assert {task["hostname"] for task in scoring.values()} == {survivor}
    assert tries == {number: 1 + (number in night.victims) for number in scoring}


def test_the_output_is_that_of_one_process_byte_for_byte(night: Night) -> None:
    """All files of the published table equal those of ``rerank-jobs run`` on the same table."""
    files = read_files(night.output)
    assert files
    assert files == read_files(night.single)


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_no_more_is_paid_twice_than_the_ledger_says(night: Night) -> None:
    """The kill repeats at most what its tasks had in flight and unsealed; the rest is paid once."""
    repeated = night.stats["requests"] - REQUESTS
    bound = AT_RISK * len(night.victims)
    paid = Counter(night.bill.values())
    print(f"\n{repeated} requests repeated, bound {bound}; pairs by times paid: {dict(paid)}")
    assert len(night.bill) == PAIRS
    assert sum(night.bill.values()) == night.stats["requests"] * DOCUMENTS
    assert 0 <= repeated <= bound


def test_a_shared_limit_is_used_whole_and_never_exceeded(night: Night) -> None:
    """No 429 over the whole night; from the second window on 97 % of what can be had was used.

    What can be had is limit x W / (W + latency). The kill, and what it cost, is in it.
    """
    steady = [(at, count) for at, count in night.counted if at >= night.counted[0][0] + WINDOW]
    last = night.stats["requests"]
    steady = [(at, count) for at, count in steady if count < last]
    (began, before), (ended, after) = steady[0], steady[-1]
    reachable = LIMIT * WINDOW / (WINDOW + sum(LATENCY) / 2)
    share = (after - before) / ((ended - began) / WINDOW) / reachable
    print(f"\n{share:.4f} of what can be had in {(ended - began) / WINDOW:.1f} windows")
    print("  by window:", *count_by_window(steady))
    print(f"  kill {night.killed_at - began:.1f} s, first {began - night.counted[0][0]:.1f}")
    print(f"{night.stats['refusals']} refused, {night.billed_at_kill} billed at the kill")
    assert night.counted[0][0] + WINDOW < night.killed_at < ended
    assert night.stats["refusals"] == {}
    assert share >= 0.97


def count_by_window(counted: list[tuple[float, int]]) -> list[int]:
    marks = [counted[0]]
    for at, count in counted:
        if at >= marks[-1][0] + WINDOW:
            marks.append((at, count))
    return [
        round((after[1] - before[1]) * WINDOW / (after[0] - before[0]))
        for before, after in itertools.pairwise(marks)
    ]


def test_neither_key_nor_query_texts_stand_anywhere_in_the_topology(night: Night) -> None:
    """No log, table, rendered field, XCom row or value of Redis holds them, packed or not."""
    cluster = night.cluster
    database = list(read_database(cluster.plan))
    tables = {place.partition(".")[0] for place, _ in database}
    words = [KEY, QUERY_CANARY]
    logs = [(str(path), path.read_bytes()) for path in cluster.log_files]
    print(f"\nsearched {len(database):,} values of {len(tables)} tables, {len(logs)} logs, ")
    print(f"{len(night.passed):,} values that passed through Redis")

    assert {"xcom", "rendered_task_instance_fields", "connection", "celery_taskmeta"} <= tables
    assert find_words(database, ["night.yaml"])  # what is there is found
    assert {name.split()[1] for name, _ in night.passed} == {"0", "1"}
    assert find_words(database, words) == []
    assert find_words([*night.passed, *read_redis(cluster.plan)], words) == []
    assert find_words(logs, words) == []
    assert find_leaks(cluster.plan.home, words) == []
    assert [
        place for place, raw in read_raw(cluster.plan.folder / "postgres") if KEY.encode() in raw
    ] == []
    assert find_leaks(night.output.parent, [KEY]) == []


def read_raw(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def test_the_key_is_encrypted_in_the_database(night: Night) -> None:
    """The connection's row holds the key by the Fernet key, which the database does not hold."""
    plan = night.cluster.plan
    engine = sqlalchemy.create_engine(plan.database)
    with engine.connect() as connection:
        query = "SELECT password, is_encrypted FROM connection WHERE conn_id = 'shop'"
        word, encrypted = connection.execute(sqlalchemy.text(query)).one()
    engine.dispose()
    assert encrypted
    assert Fernet(plan.fernet_key.encode()).decrypt(word.encode()).decode() == KEY
    assert find_words(read_database(plan), [plan.fernet_key]) == []
