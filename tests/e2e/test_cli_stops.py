"""Stops that lose nothing: budget, key, endpoint. One line, exit code 3, and what was not done."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.storage import seal_json
from tests.unit.cli.kit import (
    KEY_CANARY,
    call,
    call_json,
    make_rows,
    read_stats,
    read_table,
    run_server,
    serve,
    set_up,
    write_job,
)

Capture = pytest.CaptureFixture[str]

GUARDED = (
    "from rerank_jobs.endpoint.instant import InstantScorer\n"
    "from rerank_jobs.endpoint.server import serve\n"
    f"serve(port=0, scorer=InstantScorer(), api_key={KEY_CANARY!r})\n"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint."""
    with serve("--scorer", "instant") as address:
        yield address


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """Serve the instant endpoint behind a key."""
    with run_server([sys.executable, "-c", GUARDED]) as address:
        yield address


def remote(url: str, **changes: Any) -> dict[str, Any]:
    """Return the endpoint part of a job."""
    return {"endpoint": {"url": url, **changes}}


def test_no_key_for_a_remote_endpoint_names_the_variable(tmp_path: Path, capsys: Capture) -> None:
    """Without a key nothing is planned or sent; the line names host and variable."""
    job = set_up(tmp_path, remote("https://rerank.invalid/api/v1", api_key_env="SHOP_KEY"))
    call(capsys, "run", job).assert_says(3, "rerank.invalid", "SHOP_KEY", "set the environment")
    assert not list(tmp_path.glob("out.state/*/plan/*"))


def test_plan_needs_no_key(tmp_path: Path, capsys: Capture) -> None:
    """A price can be had before there is a key."""
    job = set_up(tmp_path, remote("https://rerank.invalid/api/v1"))
    plan = call_json(capsys, "plan", job)
    assert (plan["requests"], plan["cost_usd"]) == (3, 0.003)


def test_a_plan_over_budget_sends_and_freezes_nothing(
    tmp_path: Path, capsys: Capture, url: str
) -> None:
    """A plan dearer than the budget stops before the first request and leaves no plan file."""
    before = read_stats(url)
    job = set_up(tmp_path, {**remote(url), "budget": {"max_usd": 0.001}})
    words = ("shop", "$0.003", "budget.max_usd", "raise the budget")
    call(capsys, "run", job).assert_says(3, *words)
    assert read_stats(url) == before
    assert not list(tmp_path.glob("out.state/_all"))
    assert not (tmp_path / "out").exists()


def test_plan_prints_the_price_of_what_the_budget_forbids(
    tmp_path: Path, capsys: Capture, url: str
) -> None:
    """``plan`` shows the whole promise, then exits 3 as ``run`` would."""
    job = set_up(tmp_path, {**remote(url), "budget": {"max_usd": 0.0}})
    outcome = call(capsys, "plan", job)
    outcome.assert_says(3, "budget.max_usd")
    assert "$0.003" in outcome.out
    outcome = call(capsys, "plan", job, "--json")
    outcome.assert_says(3, "budget.max_usd")
    assert outcome.json()["cost_usd"] == 0.003


def test_a_budget_that_fits_lets_the_job_run(tmp_path: Path, capsys: Capture, url: str) -> None:
    """A budget of exactly the allowance is enough: the price is planned, not guessed."""
    plan = call_json(capsys, "plan", set_up(tmp_path, remote(url)))
    allowance = plan["plan"]["allowance_usd"]
    job = write_job(tmp_path, {**remote(url), "budget": {"max_usd": allowance}})
    report = call_json(capsys, "run", job)
    assert report["cost_usd"] == 0.003
    assert report["search_units"] == plan["search_units"] == 3


def test_a_budget_lowered_after_a_stop_is_obeyed(tmp_path: Path, capsys: Capture) -> None:
    """A plan frozen under a higher budget does not outlive it: the next run sends nothing."""
    nobody = f"http://127.0.0.1:{free_port()}/api/v1"
    job = set_up(tmp_path, remote(nobody, patience_seconds=0))
    call(capsys, "run", job).assert_says(3)
    job = write_job(tmp_path, {**remote(nobody, patience_seconds=0), "budget": {"max_usd": 0.001}})
    call(capsys, "run", job).assert_says(3, "budget.max_usd")


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("patience", [0, 0.2])
def test_an_endpoint_that_is_down_stops_resumable(
    tmp_path: Path, capsys: Capture, patience: float
) -> None:
    """Nobody at the address: the run stops when its patience ends, and names the address."""
    nobody = f"http://127.0.0.1:{free_port()}/api/v1"
    job = set_up(tmp_path, remote(nobody, patience_seconds=patience))
    call(capsys, "run", job).assert_says(3, nobody, "run again")
    assert not (tmp_path / "out").exists()


def test_a_wrong_address_is_named(tmp_path: Path, capsys: Capture, url: str) -> None:
    """An address that answers 404 stops the job at once and is named."""
    wrong = url.replace("/api/v1", "/api/v2")
    job = set_up(tmp_path, remote(wrong))
    call(capsys, "run", job).assert_says(3, wrong)


@pytest.mark.parametrize("key", [None, "sk-or-v1-wrong"])
def test_a_refused_key_stops_and_names_its_variable(
    tmp_path: Path,
    capsys: Capture,
    guarded_url: str,
    key: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong or absent key stops the run; the line names the variable and never the key."""
    if key is not None:
        monkeypatch.setenv("SHOP_KEY", key)
    job = set_up(tmp_path, remote(guarded_url, api_key_env="SHOP_KEY"))
    outcome = call(capsys, "run", job)
    outcome.assert_says(3, "SHOP_KEY")
    assert "sk-or-v1-wrong" not in outcome.err + outcome.out
    assert not (tmp_path / "out").exists()


def test_after_a_stop_the_right_key_goes_on(
    tmp_path: Path, capsys: Capture, guarded_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stopped plan is the same plan with the right key; no file of the job holds the key."""
    monkeypatch.setenv("SHOP_KEY", "sk-or-v1-wrong")
    job = set_up(tmp_path, remote(guarded_url, api_key_env="SHOP_KEY"))
    call(capsys, "run", job).assert_says(3)
    frozen = {path.stem for path in tmp_path.glob("out.state/_all/plan/*.json")}
    monkeypatch.setenv("SHOP_KEY", KEY_CANARY)
    report = call_json(capsys, "run", job)
    assert {report["plan_id"]} == frozen
    assert report["requests"] == 3
    assert len(read_table(tmp_path / "out")) == 12
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY_CANARY.encode() not in path.read_bytes()


def test_a_gate_keeps_what_is_paid(tmp_path: Path, capsys: Capture, url: str) -> None:
    """Documents too long for context.long_documents: fail end in exit 4; the next run is free."""
    rows = make_rows()
    rows[0]["text"] = "word " * 9000
    job = set_up(tmp_path, {**remote(url), "context": {"long_documents": "fail"}}, rows)
    call(capsys, "run", job).assert_says(4, "1 of 12 documents failed", "max_failed_fraction")
    assert not (tmp_path / "out").exists()
    sent = read_stats(url)["requests"]
    changes = {"context": {"long_documents": "fail"}, "failures": {"max_failed_fraction": 0.5}}
    report = call_json(capsys, "run", write_job(tmp_path, {**remote(url), **changes}))
    assert (report["requests"], read_stats(url)["requests"]) == (0, sent)
    assert report["statuses"]["failed"] == 1


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, capsys: Capture) -> None:
    """A file where the output folder should be ends in one line with its path."""
    job = set_up(tmp_path)
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    outcome = call(capsys, "run", job)
    outcome.assert_says(3, str(tmp_path / "out"))


def test_a_state_root_of_another_format_is_refused(tmp_path: Path, capsys: Capture) -> None:
    """A FORMAT of another number, or one that was changed, is refused and never reinterpreted."""
    job = set_up(tmp_path)
    call_json(capsys, "plan", job)
    path = tmp_path / "out.state" / "FORMAT"
    made = path.read_bytes()
    path.write_bytes(made.replace(b'"format": 2', b'"format": 9'))
    call(capsys, "run", job).assert_says(2, "FORMAT")
    path.write_bytes(seal_json({**json.loads(made), "format": 9}))
    call(capsys, "run", job).assert_says(2, "state format 9")


def test_a_damaged_salt_is_refused(tmp_path: Path, capsys: Capture) -> None:
    """A salt of another length is refused: every key depends on it."""
    job = set_up(tmp_path)
    call_json(capsys, "plan", job)
    (tmp_path / "out.state" / "salt").write_bytes(b"short")
    call(capsys, "run", job).assert_says(2, "salt", "restore it")


def test_max_runtime_stops_and_says_what_is_kept(tmp_path: Path, capsys: Capture) -> None:
    """When the time is over nothing more is sent; one line says what is kept; the next run goes on.

    Each reply takes 0.6 s and one is in flight, so a second is enough for one or two of three.
    """
    with serve("--scorer", "instant", "--latency-ms", "600") as slow:
        endpoint = remote(slow, max_concurrency=1, requests_per_minute=60_000)
        job = set_up(tmp_path, {**endpoint, "max_runtime": "1s"})
        outcome = call(capsys, "run", job)
        sent = read_stats(slow)["requests"]
        words = ("max_runtime is over", "run again", f"[kept: {sent} of 3 requests, $0.00{sent} of")
        outcome.assert_says(3, *words)
        assert 1 <= sent <= 2
        report = call_json(capsys, "run", write_job(tmp_path, endpoint))
        assert report["requests"] == 3 - sent
        assert read_stats(slow)["pairs_repeated"] == 0
