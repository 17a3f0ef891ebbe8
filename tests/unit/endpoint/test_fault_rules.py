"""Which request a rule strikes: its share, its number, its schedule, its scope; repeatably."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.faults import Faults, Latency, Rule, load_faults
from rerank_jobs.endpoint.injector import Injector
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.kinds import KINDS
from rerank_jobs.endpoint.limits import RateLimit
from rerank_jobs.endpoint.wire import RerankCall
from rerank_jobs.errors import JobError
from tests.unit.endpoint.conftest import RERANK
from tests.unit.score.simulation import simulate, wall_clock

CALL = RerankCall("a query", ("one", "two"), None)


def strike_all(rule: dict[str, Any], times: list[float], seed: int = 1) -> list[bool]:
    """Return for requests at these seconds which ones a single rule strikes."""
    injector = Injector(Faults(seed=seed, rules=(Rule(kind="500_server", **rule),)), started=100.0)
    return [injector.strike("rerank", 100.0 + time, CALL) is not None for time in times]


def test_a_share_comes_out() -> None:
    """Over 20,000 requests a share of 30 % strikes 30 %, within four standard deviations."""
    struck = strike_all({"share": 0.3}, [0.0] * 20_000)
    assert abs(sum(struck) / 20_000 - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (1.0, 50)])
def test_the_ends_of_a_share_are_exact(share: float, count: int) -> None:
    """A share of nothing never strikes, the whole always."""
    assert sum(strike_all({"share": share}, [0.0] * 50)) == count


def test_the_seed_decides_and_nothing_else() -> None:
    """The same seed strikes the same requests, another seed strikes others."""
    first, again, other = (strike_all({"share": 0.5}, [0.0] * 200, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_count_and_a_first_bound_the_strikes() -> None:
    """From the third request on, two are struck."""
    assert (
        strike_all({"first": 3, "count": 2}, [0.0] * 6) == [False, False, True, True] + [False] * 2
    )


def test_a_schedule_is_an_outage() -> None:
    """Requests from the first second to before the last are struck, by the server's clock."""
    times = [0.0, 9.99, 10.0, 15.0, 19.99, 20.0, 30.0]
    outage = {"from_seconds": 10, "until_seconds": 20}
    assert strike_all(outage, times) == [False, False, True, True, True, False, False]
    assert strike_all({"from_seconds": 10}, times) == [False, False] + [True] * 5


def test_a_schedule_may_repeat() -> None:
    """An outage of two seconds in each ten comes again and again."""
    rule = {"from_seconds": 1, "until_seconds": 3, "every_seconds": 10}
    assert strike_all(rule, [0, 1, 2, 3, 10, 11, 12, 13, 101, 103]) == [
        *(False, True, True, False),
        *(False, True, True, False),
        *(True, False),
    ]


def test_a_scope_is_the_content_of_the_request() -> None:
    """Only requests whose query and some document hold the markers are struck and counted."""
    rule = Rule(kind="413_payload_too_large", query_contains="Q", document_contains="D", first=2)
    injector = Injector(Faults(rules=(rule,)), 0.0)
    calls = [
        RerankCall("q", ("D",), None),
        RerankCall("Q", ("d",), None),
        RerankCall("xQ", ("d", "xDx"), None),
        RerankCall("Q", ("d", "e", "D", "D"), None),
    ]
    strikes = [injector.strike("rerank", 0.0, call) for call in calls]
    assert [strike and strike.index for strike in strikes] == [None, None, None, 2]


def test_the_first_rule_that_strikes_decides() -> None:
    """A later rule gets what the earlier ones let through, and draws the same whatever they do."""
    earlier = Rule(kind="500_server", count=3)
    later = Rule(kind="503_provider_overloaded")
    injector = Injector(Faults(rules=(earlier, later)), 0.0)
    strikes = [injector.strike("rerank", 0.0, CALL) for _ in range(5)]
    assert [strike.kind.name[:3] for strike in strikes if strike] == ["500"] * 3 + ["503"] * 2


@pytest.mark.parametrize(
    ("latency", "low", "middle", "high"),
    [
        (Latency(seconds=0.25), 0.25, 0.25, 0.25),
        (Latency(low=0.02, high=0.12), 0.02, 0.07, 0.12),
        (Latency(median=0.1, sigma=1.0, most=2.0), 0.0, 0.1, 2.0),
    ],
)
def test_latencies_have_their_distribution(
    latency: Latency, low: float, middle: float, high: float
) -> None:
    """Draws stay within the bounds, with the median where it belongs, and repeat by seed."""
    draws = [
        [injector.draw_latency() for _ in range(4001)]
        for injector in (Injector(Faults(seed=5, latency=latency), 0.0) for _ in range(2))
    ]
    assert draws[0] == draws[1]
    ordered = sorted(draws[0])
    assert low <= ordered[0] <= ordered[-1] <= high
    assert ordered[2000] == pytest.approx(middle, rel=0.1)


FAULTS = Faults(
    seed=7,
    transit=Latency(low=0, high=0.01),
    latency=Latency(low=0.02, high=0.12),
    rules=(
        Rule(kind="503_provider_overloaded", share=0.2, wait_seconds=2),
        Rule(kind="reset_after_billing", share=0.1),
        Rule(kind="score_nan", share=0.1),
        Rule(kind="no_answer", share=0.05, seconds=300),
        Rule(kind="body_dribbled", share=0.1, seconds=3),
    ),
)


async def exchange_many(count: int) -> tuple[list[Any], dict[str, Any]]:
    """Send requests one after the other on simulated time; return all that came of it."""
    loop = asyncio.get_running_loop()
    app = create_app(scorer=InstantScorer(), faults=FAULTS, clock=loop.time, wall_clock=wall_clock)
    seen: list[Any] = []
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        for number in range(count):
            body = {"model": "m", "query": f"query {number}", "documents": ["a", "b", "c"]}
            try:
                reply = await client.post(RERANK, json=body, timeout=None)
            except ConnectionResetError:
                seen.append((loop.time(), "reset"))
            else:
                seen.append((loop.time(), reply.status_code, dict(reply.headers), reply.content))
    return seen, app.state.stats.to_json()


def test_a_simulation_repeats_byte_for_byte() -> None:
    """On simulated time, the same seed and order give the same answers at the same instants."""
    first, again = simulate(exchange_many(300)), simulate(exchange_many(300))
    assert first == again
    assert set(first[1]["faults"]) == {rule.kind for rule in FAULTS.rules}


def test_requests_are_on_their_way_before_limits_see_them() -> None:
    """Transit delays a request before it is counted: one sent first may arrive second."""

    async def arrive() -> list[int]:
        loop = asyncio.get_running_loop()
        app = create_app(
            scorer=InstantScorer(),
            faults=Faults(transit=Latency(low=0, high=10)),
            limit=RateLimit(1, window_seconds=100),
            clock=loop.time,
        )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test"
        ) as client:
            body = {"model": "m", "query": "q", "documents": ["d"]}
            sends = (client.post(RERANK, json=body, timeout=None) for _ in range(8))
            return [reply.status_code for reply in await asyncio.gather(*sends)]

    statuses = simulate(arrive())
    assert sorted(statuses) == [200] + [429] * 7
    assert statuses[0] == 429


def test_a_file_of_faults_is_read(tmp_path: Path) -> None:
    """YAML and JSON give the same faults."""
    data = {"seed": 7, "latency": {"median": 0.1, "sigma": 0.5}, "rules": [{"kind": "late"}]}
    (tmp_path / "faults.json").write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / "faults.yaml").write_text(
        "seed: 7\nlatency: {median: 0.1, sigma: 0.5}\nrules:\n- kind: late\n", encoding="utf-8"
    )
    expected = Faults(seed=7, latency=Latency(median=0.1, sigma=0.5), rules=[Rule(kind="late")])
    assert load_faults(tmp_path / "faults.json") == expected
    assert load_faults(tmp_path / "faults.yaml") == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- kind: late", "a file of faults is a YAML mapping"),
        ("seed: [", "not valid YAML"),
        ("rulse: []", "rulse: unknown key, did you mean rules?"),
        ("rules: [{kind: score_nam}]", "'score_nam', did you mean score_nan?"),
        ("rules: [{kind: zzz}]", "docs/embedded.md lists them"),
        ("rules: [{kind: late, sharre: 1}]", "rules.0.sharre: unknown key, did you mean share?"),
        ("rules: [{share: 1}]", "rules.0.kind: is missing"),
        ("rules: [{kind: late, share: 2}]", "rules.0.share: "),
        ("rules: [{kind: late, share: yes}]", "rules.0.share: must not be true or false"),
        ("rules: [{kind: late, count: 0}]", "rules.0.count: "),
        ("rules: [{kind: late, wait_seconds: 1}]", "only error answers name a wait"),
        ("rules: [{kind: late, billed: false}]", "so it is billed"),
        ("rules: [{kind: late, route: key}]", "there are only error answers"),
        ("rules: [{kind: late, from_seconds: 2, until_seconds: 2}]", "later than from_seconds"),
        (
            "rules: [{kind: late, until_seconds: 9, every_seconds: 5}]",
            "must not be shorter than until_seconds",
        ),
        ("rules: [{kind: 500_server, wait_seconds: 1, hints: [body]}]", "rules.0.hints.0: "),
        ("latency: {seconds: 1, low: 2}", "latency: give either seconds, or low and high"),
        ("latency: {low: 2, high: 1}", "latency: high must not be below low"),
    ],
)
def test_mistakes_in_a_file_are_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    """A wrong file is a JobError that names the file, the key and what would do."""
    path = tmp_path / "faults.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(JobError) as caught:
        load_faults(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A missing file and one that is not UTF-8 are JobErrors too."""
    with pytest.raises(JobError, match="no such file of faults"):
        load_faults(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"# \xe9")
    with pytest.raises(JobError, match="UTF-8"):
        load_faults(tmp_path / "latin.yaml")


def test_faults_are_values() -> None:
    """Faults are frozen, so that nothing changes what a seed means while a server runs."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(FAULTS, "seed", 8)  # noqa: B010 - mypy knows that it is frozen


def test_the_guide_shows_a_working_file_and_every_kind(tmp_path: Path) -> None:
    """The example of docs/embedded.md loads, and the guide names each kind of fault."""
    guide = (Path(__file__).parents[3] / "docs" / "embedded.md").read_text(encoding="utf-8")
    section = guide[guide.index("## Faults") :]
    example = section[section.index("```yaml") + 7 :]
    (tmp_path / "faults.yaml").write_text(example[: example.index("```")], encoding="utf-8")
    assert len(load_faults(tmp_path / "faults.yaml").rules) >= 5
    assert [name for name in KINDS if f"`{name}`" not in section] == []
