"""``rerank-jobs canary`` against a served endpoint: what is kept, compared, paid, and an alarm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs import canary
from rerank_jobs.canary import Pairs, read_pairs, run_canary
from rerank_jobs.collecting import collect
from rerank_jobs.erasing import erase
from rerank_jobs.job_file import load_job
from rerank_jobs.storage import open_store, read_json, seal_json
from rerank_jobs.tables.matching import Wanted
from tests.unit.cli.kit import call, call_json, read_stats, serve, set_up

Capture = pytest.CaptureFixture[str]


def list_records(job: Path) -> list[str]:
    state = open_store(load_job(job).state_root)
    return [entry.name for entry in state.entries("canary")]


def change(job: Path, record: str, **fields: Any) -> None:
    """Put other values into a record's reading, as an endpoint that has changed would have."""
    state = open_store(load_job(job).state_root)
    document = read_json(state, record)
    document["reading"] |= fields
    state.replace(record, seal_json(document))


def test_the_pairs_are_one_search_unit_of_twenty_documents() -> None:
    """One query, 20 distinct documents in several scripts, each one billing chunk."""
    pairs = read_pairs()
    assert len(set(pairs.documents)) == 20
    assert sum(not text.isascii() for text in pairs.documents) >= 10
    request = pairs.to_request()
    assert request.search_units == 1
    assert all(passage.tokens < 500 for passage in request.passages)
    assert pairs.digest == "26716de0446bc888"


def test_a_model_that_is_the_same_costs_a_unit_and_is_no_alarm(
    tmp_path: Path, capsys: Capture
) -> None:
    """Two readings of one server: one request each, equal scores, exit code 0, two records."""
    with serve("--scorer", "instant") as url:
        job = set_up(tmp_path, {"endpoint": {"url": url}})
        first = call_json(capsys, "canary", job)
        second = call_json(capsys, "canary", job)
        stats = read_stats(url)
    assert (stats["requests"], stats["search_units"]) == (2, 2)
    assert (first["reference"], first["last"], first["cost_usd"]) == (1, None, 0.001)
    assert (second["reference"], second["last"], second["moved"]) == (1, 1, False)
    assert first["reading"] == second["reading"]
    assert len(first["reading"]["scores"]) == 20
    assert list_records(job) == [first["name"], second["name"]]


def test_another_scorer_behind_the_same_url_is_an_alarm(tmp_path: Path, capsys: Capture) -> None:
    """A server that answers otherwise than before ends it with 7 and one line; accepted, with 0."""
    with serve("--scorer", "instant") as url:
        job = set_up(tmp_path, {"endpoint": {"url": url}})
        call_json(capsys, "canary", job)
    with serve("--port", url.split(":")[2].partition("/")[0]):
        moved = call(capsys, "canary", job)
        moved.assert_says(7, "the canary moved", "scores moved", "--accept")
        assert call(capsys, "canary", job, "--json").json()["moved"]
        assert call(capsys, "canary", job, "--accept").code == 0
        settled = call_json(capsys, "canary", job)
    assert (settled["reference"], settled["last"], settled["moved"]) == (4, 4, False)


def test_model_and_provider_are_compared_too(tmp_path: Path, capsys: Capture) -> None:
    """Equal scores under another name of model or provider are an alarm that names both."""
    job = set_up(tmp_path)
    record = call_json(capsys, "canary", job)["name"]
    change(job, record, models=["embedded/elder"], providers=["Elsewhere"])
    outcome = call(capsys, "canary", job)
    outcome.assert_says(7, "model embedded/elder became embedded/", "provider Elsewhere became")


def test_a_slow_drift_is_seen_against_the_reference(tmp_path: Path, capsys: Capture) -> None:
    """Each night within the tolerance of the last, but not of the first: an alarm."""
    job = set_up(tmp_path)
    first = call_json(capsys, "canary", job)
    second = call_json(capsys, "canary", job)
    drifted = [score + 0.02 for score in first["reading"]["scores"]]
    change(job, first["name"], scores=drifted)
    change(job, second["name"], scores=[score - 0.01 for score in drifted])
    outcome = call(capsys, "canary", job, "--tolerance", "0.015", "--json")
    found = outcome.json()
    assert outcome.code == 7
    assert (found["since_reference"]["scores_moved"], found["since_last"]["scores_moved"]) == (
        20,
        0,
    )


def test_a_damaged_record_is_as_if_it_were_not_there(tmp_path: Path, capsys: Capture) -> None:
    """A torn reference is replaced by the last reading that is whole."""
    job = set_up(tmp_path)
    first = call_json(capsys, "canary", job)
    call_json(capsys, "canary", job)
    state = open_store(load_job(job).state_root)
    state.replace(first["name"], state.read(first["name"])[:40])
    third = call_json(capsys, "canary", job)
    assert (third["reference"], third["last"], third["moved"]) == (2, 2, False)


def test_readings_of_other_pairs_are_not_compared(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of this package with another canary starts with a reference of its own."""
    job = set_up(tmp_path)
    call_json(capsys, "canary", job)
    monkeypatch.setattr(canary, "read_pairs", lambda: Pairs("other", ("a", "b"), "0" * 16))
    found = run_canary(load_job(job))
    assert (found.number, found.reference, found.last) == (2, 2, None)


def test_budgets_bound_the_canary_and_count_it(tmp_path: Path, capsys: Capture) -> None:
    """A day's budget of $0.003 pays three readings; the fourth and a run send nothing."""
    with serve("--scorer", "instant") as url:
        changes = {"endpoint": {"url": url}, "budget": {"max_usd_per_day": 0.003}}
        job = set_up(tmp_path, changes)
        for _ in range(3):
            call_json(capsys, "canary", job)
        call(capsys, "canary", job).assert_says(3, "the canary costs $0.001", "$0.003 of $0.003")
        call(capsys, "run", job).assert_says(3, "budget.max_usd_per_day: $0.003 of $0.003")
        assert read_stats(url)["requests"] == 3
    assert len(list_records(job)) == 3


def test_a_stop_has_its_own_code_and_its_record_has_no_reading(
    tmp_path: Path, capsys: Capture
) -> None:
    """Out of credit: exit code 3, and nothing that a later reading would be compared with."""
    with serve("--scorer", "instant", "--credit-usd", "0.001") as url:
        job = set_up(tmp_path, {"endpoint": {"url": url}})
        assert call(capsys, "canary", job).code == 0
        call(capsys, "canary", job).assert_says(3, "out of credit")
    records = [read_json(open_store(load_job(job).state_root), one) for one in list_records(job)]
    assert [record["reading"] is None for record in records] == [False, True]
    assert [record["unsealed_usd"] for record in records] == [0.001, 0]


def test_garbage_collection_and_erasure_leave_the_readings(tmp_path: Path, capsys: Capture) -> None:
    """They hold no text and no key, and neither command names or touches them, ever."""
    path = set_up(tmp_path)
    call_json(capsys, "run", path)
    call_json(capsys, "canary", path)
    job = load_job(path)
    before = {name: open_store(job.state_root).read(name) for name in list_records(path)}
    assert before
    for document in read_pairs().documents:
        assert all(document.encode() not in data for data in before.values())
    later = time.time() + 400 * 86_400
    found = collect(job, delete=True, grace=0.0, keep=0.0, now=later)
    assert not [item for item in found.garbage if item.name.startswith("canary/")]
    erase(job, Wanted("text", frozenset(read_pairs().documents)), write=True)
    erase(job, Wanted("query_id", frozenset({"q0"})), write=True)
    assert before == {name: open_store(job.state_root).read(name) for name in list_records(path)}
