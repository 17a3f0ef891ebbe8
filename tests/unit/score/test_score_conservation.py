"""Whatever the endpoint does, no outcome is lost or handed over twice, no dollar is forgotten."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.score.fakes import REMOTE, FakeEndpoint, Run, make_requests, ok, refuse, score
from tests.unit.score.simulation import simulate

COUNT = 120
PASSING = ["500", "503", "429", "429 hint", "timeout", "reset", "connect", "garbled"]
LASTING = ["413", "401", "402", "404"]


ANSWERS: dict[str, Callable[[], httpx.Response | Exception]] = {
    "429 hint": lambda: refuse(429, headers={"Retry-After": "3"}),
    "timeout": lambda: httpx.ReadTimeout("slow"),
    "reset": lambda: httpx.ReadError("reset"),
    "connect": lambda: httpx.ConnectError("refused"),
    "garbled": lambda: httpx.Response(200, content=b'{"results":['),
}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    trouble=st.floats(0, 0.9),
    kinds=st.lists(st.sampled_from(PASSING + LASTING), min_size=1, max_size=4),
    interrupted_at=st.none() | st.floats(0, 20),
    allowance=st.none() | st.floats(0, 0.2),
)
def test_outcomes_and_dollars_are_conserved(
    seed: int,
    trouble: float,
    kinds: list[str],
    interrupted_at: float | None,
    allowance: float | None,
) -> None:
    """Each passage has one outcome or the run has a stop; sends and charges match the server's."""
    rng = random.Random(seed)
    served = charged = 0
    sent: Counter[tuple[str, ...]] = Counter()

    def script(endpoint: FakeEndpoint, _number: int) -> httpx.Response | Exception:
        nonlocal served, charged
        sent[tuple(endpoint.documents)] += 1
        kind = rng.choice(kinds) if rng.random() < trouble else "ok"
        served += kind == "ok"
        charged += kind in {"ok", "timeout", "reset", "garbled"}
        if kind == "ok":
            return ok(len(endpoint.documents))
        return ANSWERS[kind]() if kind in ANSWERS else refuse(int(kind))

    async def main() -> Run:
        stop = asyncio.Event()
        if interrupted_at is not None:
            asyncio.get_running_loop().call_later(interrupted_at, stop.set)
        return await score(script, make_requests(COUNT), stop=stop, allowance_usd=allowance)

    done = simulate(main())
    totals = done.result.totals
    texts = [passage.text for outcome in done.outcomes for passage in outcome.request.passages]
    assert len(set(texts)) == len(texts)
    assert done.result.stop is not None or len(texts) == 3 * COUNT
    assert totals.requests == done.endpoint.tries.total()
    assert totals.replies == served
    assert totals.retries == totals.requests - len(sent)
    spent = totals.cost_usd + totals.unknown_usd
    assert abs(spent - charged * 0.001) < 1e-9
    assert allowance is None or spent <= allowance + 1e-9
    assert REMOTE.max_concurrency >= done.endpoint.most_in_flight
