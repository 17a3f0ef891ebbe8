"""The promise: what a plan costs, what it would cost naively, and what it may cost at most."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank_jobs.config import Endpoint
from rerank_jobs.job import find_plan, open_roots, plan_partition, preview_partition, run_partition
from rerank_jobs.plan.frozen import read_plan
from rerank_jobs.plan.price import ShardPrice, allow
from rerank_jobs.plan.promise import SAVINGS, Promise
from rerank_jobs.storage import seal_json
from tests.builders import make_job, make_rows, write_rows
from tests.unit.plan.kit import build, make_row

API = {"url": "https://api.test/v1", "api_key_env": "TEST_KEY"}
BOTH = {**API, "usd_per_search": 0.002, "usd_per_million_tokens": 0.05}


def check_sums(promise: Promise) -> None:
    """Naive less every saving is what is planned, in units, tokens and dollars."""
    assert tuple(promise.savings) == SAVINGS
    for naive, planned, name in (
        (promise.naive_units, promise.search_units, "search_units"),
        (promise.naive_tokens, promise.tokens, "tokens"),
        (promise.naive_usd, promise.cost_usd, "cost_usd"),
    ):
        saved = sum(step[name] for step in promise.savings.values())
        assert round(naive - saved, 6) == planned


GROUPS = st.lists(
    st.tuples(st.sampled_from(["lamp", "chair", "river"]), st.lists(st.integers(0, 5), max_size=6)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GROUPS)
def test_the_naive_price_is_one_request_per_group(
    tmp_path_factory: pytest.TempPathFactory, groups: list[tuple[str, list[int]]]
) -> None:
    """Units and tokens equal a plain count over all groups; savings lead down to the plan."""
    texts = [f"{'wooden table ' * 100 * size} {size}" for size in range(6)]
    rows = [
        make_row(query, texts[size], group=f"g{group}", number=number)
        for group, (query, sizes) in enumerate(groups)
        for number, size in enumerate(sizes)
    ]
    if not rows:
        return
    built = build(tmp_path_factory.mktemp("naive"), rows, endpoint=BOTH)
    promise = built.draft.promise
    check_sums(promise)
    assert all(step["search_units"] >= 0 for step in promise.savings.values())
    assert promise.naive_units == sum(1 for _, sizes in groups if sizes)
    pairs = {(row["query"], row["text"]): row["tokens"] for row in built.passages}
    sent = [(query, texts[size]) for query, sizes in groups if len(sizes) > 1 for size in sizes]
    alone = promise.savings["singles"]
    assert promise.naive_tokens - alone["tokens"] == sum(pairs[pair] for pair in sent)
    assert alone["search_units"] == sum(1 for _, sizes in groups if len(sizes) == 1)
    assert promise.savings["deduplication"]["tokens"] == sum(pairs[pair] for pair in sent) - sum(
        pairs.values()
    )


def test_long_lists_are_counted_by_their_chunks(tmp_path: Path) -> None:
    """A group of 150 candidates of three chunks is five units, also where it occurs twice."""
    text = "plain wooden words " * 330
    rows = [
        make_row("lamp", f"{text} {number}", group=group, number=number)
        for group in "ab"
        for number in range(150)
    ]
    built = build(tmp_path, rows)
    chunks = sum(row["chunks"] for row in built.passages)
    promise = built.draft.promise
    assert promise.naive_units == 2 * math.ceil(chunks / 100) == 2 * promise.search_units
    assert promise.savings["deduplication"]["search_units"] == promise.search_units
    check_sums(promise)


def test_reuse_is_a_saving(tmp_path: Path) -> None:
    """What an earlier run paid is saved under reuse; the sums hold."""
    write_rows(tmp_path / "candidates.parquet", make_rows(6, 10))
    run_partition(make_job(tmp_path))
    write_rows(tmp_path / "candidates.parquet", make_rows(8, 10)[:70])
    promise = preview_partition(make_job(tmp_path)).promise
    assert promise.savings["reuse"]["search_units"] > 0
    assert promise.savings["reuse"]["tokens"] > 0
    check_sums(promise)


def test_tokens_are_those_of_everything_sent(tmp_path: Path) -> None:
    """A plan's tokens are the sum over its passages, in the promise and shard by shard."""
    rows = [*make_rows(10, 4), *make_rows(10, 4)]
    for number, row in enumerate(rows):
        row["document_id"] = f"{number}"
    built = build(tmp_path, rows, shards={"rows_per_shard": 20}, endpoint=BOTH)
    by_shard: dict[int, int] = defaultdict(int)
    for row in built.passages:
        by_shard[row["shard"]] += row["tokens"] if row["request"] >= 0 else 0
    prices = built.draft.prices
    assert {n: price.tokens for n, price in enumerate(prices) if price.tokens} == by_shard
    promise = built.draft.promise
    assert promise.tokens == sum(by_shard.values())
    cost = promise.search_units * 0.002 + promise.tokens * 0.05 / 1e6
    assert promise.cost_usd == pytest.approx(cost, abs=1e-6)
    widest = max(sum(row["tokens"] for row in request) for request in built.requests.values())
    assert max(price.widest_tokens for price in prices) == widest


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"requests_per_minute": 60}, lambda p: p.requests),
        ({"requests_per_minute": 60, "tokens_per_minute": 60}, lambda p: p.tokens),
        ({"requests_per_minute": 6, "tokens_per_minute": 600_000}, lambda p: p.requests * 10),
        ({"requests_per_minute": 60, "tokens_per_minute": 120, "share": 0.5}, lambda p: p.tokens),
    ],
)
def test_the_slower_limit_sets_the_time(tmp_path: Path, limits: Any, seconds: Any) -> None:
    """Seconds are those of requests or of tokens at their limits, whichever takes longer."""
    promise = build(tmp_path, make_rows(5, 4), endpoint={**API, **limits}).draft.promise
    assert promise.seconds == seconds(promise)


@pytest.mark.parametrize(
    ("price", "prices", "usd"),
    [
        (ShardPrice(), {}, 0.0),
        (ShardPrice(requests=1, units=1, widest_units=1), {}, 0.00105 + 0.008),
        (ShardPrice(requests=9, units=100, widest_units=20), {}, 0.105 + 0.020),
        (
            ShardPrice(requests=9, units=9, tokens=10**6, widest_units=1, widest_tokens=10**5),
            {"usd_per_million_tokens": 0.5},
            0.525 + 0.05,
        ),
        (ShardPrice(requests=9, units=9, widest_units=1), {"usd_per_search": 0}, 0.0),
    ],
)
def test_an_allowance_has_room_for_a_retry_or_a_bisection(
    price: ShardPrice, prices: dict[str, Any], usd: float
) -> None:
    """Planned cost x 1.05, and the dearer of the dearest request and eight search units."""
    assert allow(price, Endpoint(url="https://api.test/v1", **prices)) == pytest.approx(usd)


def test_plans_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """A frozen plan without tokens, savings and readings decodes, these empty, and goes on."""
    write_rows(tmp_path / "candidates.parquet", make_rows(3, 4))
    job = make_job(tmp_path)
    planned = plan_partition(job)
    state = open_roots(job).state
    path = Path(job.state_root) / "_all" / "plan" / f"{planned.plan_id}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["sha256"]
    for name in ("tokens", "naive_tokens", "savings", "units_by_reading"):
        del document["promise"][name]
    for shard in document["shards"]:
        del shard["tokens"]
    path.unlink()
    path.write_bytes(seal_json(document))
    old = read_plan(state, "_all", planned.plan_id)
    assert (old.promise.tokens, old.promise.savings, old.shards[0].tokens) == (0, {}, 0)
    assert old.promise.cost_usd == planned.promise.cost_usd
    assert find_plan(job, "_all", planned.plan_id).plan == old
    assert run_partition(job).statuses["scored"] == 12
