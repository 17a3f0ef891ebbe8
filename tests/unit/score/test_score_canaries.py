"""Keys and texts never show up where people look."""

from __future__ import annotations

import asyncio
import logging
import traceback

import httpx
import pytest

from rerank_jobs.config import Secret
from rerank_jobs.model import Outcome
from rerank_jobs.score import ScoreSettings, open_client
from tests.unit.score.fakes import (
    DOCUMENT,
    KEY,
    QUERY,
    REMOTE,
    FakeEndpoint,
    Script,
    make_request,
    make_requests,
    ok,
    refuse,
    run,
)
from tests.unit.score.simulation import SimulatedLoop

CANARIES = (KEY, QUERY, DOCUMENT)

ECHO = {"raw": DOCUMENT, "reasons": [DOCUMENT], "flagged_input": DOCUMENT, "limit_source": QUERY}


def echoing(status: int) -> Script:
    def script(endpoint: FakeEndpoint, _number: int) -> httpx.Response:
        return ok() if endpoint.tries.total() < 5 else refuse(status, {**ECHO})

    return script


def shown(*values: object) -> str:
    return "\n".join(f"{value!r} {value!s}" for value in values)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 429, 500, 503])
def test_no_error_or_outcome_shows_a_text(
    status: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Errors that echo the request leave no trace in stops, outcomes, totals, logs or output."""
    caplog.set_level(logging.DEBUG)
    patience = REMOTE.model_copy(update={"patience_seconds": 30})
    done = run(echoing(status), make_requests(60), endpoint=patience)
    assert len(done.outcomes) >= 4
    text = shown(done.result, done.result.stop, *done.outcomes, *done.progress) + caplog.text
    text += "".join(capfd.readouterr())
    assert not [canary for canary in CANARIES if canary in text]


def test_no_debug_log_of_the_event_loop_shows_a_text(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The debug mode of asyncio, which logs callbacks with their arguments, shows none either."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(SimulatedLoop, "slow_callback_duration", 0.0, raising=False)
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    run(echoing(500), make_requests(20), endpoint=REMOTE.model_copy(update={"patience_seconds": 5}))
    assert not [canary for canary in CANARIES if canary in caplog.text]


def test_no_traceback_of_a_failing_ledger_shows_a_text() -> None:
    """A traceback names lines of code and the ledger's own error only."""

    def broken(_outcome: Outcome) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        run(echoing(500), make_requests(20), accept=broken)
    text = "".join(traceback.format_exception(caught.value))
    assert not [canary for canary in CANARIES if canary in text]


def test_values_that_hold_texts_do_not_show_them() -> None:
    """Requests, settings and clients have no telling repr."""

    async def main() -> str:
        client = open_client(REMOTE, Secret(KEY))
        settings = ScoreSettings.from_endpoint(REMOTE, 1.0)
        text = shown(client, settings, make_request(1), *make_request(1).passages, vars(client))
        await client.aclose()
        return text

    text = asyncio.run(main())
    assert not [canary for canary in CANARIES if canary in text]
