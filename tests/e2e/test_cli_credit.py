"""Credit against plan: what ``plan``, ``run`` and ``doctor`` say that a key may still spend."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.kit import KEY_CANARY, call, call_json, read_table, set_up, write_job

Capture = pytest.CaptureFixture[str]

TOKEN_CANARY = "quokkacanary of a gateway"  # noqa: S105
PROXY_CANARY = "numbatcanary"


@dataclass(slots=True)
class Server:
    """An API in a thread: what it answers to ``GET /key``, and what it was asked."""

    url: str = ""
    key_status: int = 200
    account: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fails_after: int = 10**9


def answer_rerank(body: bytes) -> dict[str, Any]:
    """Return a valid reply: scores fall with the position."""
    n = len(json.loads(body)["documents"])
    results = [{"index": i, "relevance_score": 1 / (i + 2)} for i in range(n)]
    usage = {"search_units": 1, "cost": 0.001}
    return {"id": "gen-1", "model": "cohere/rerank-v3.5", "results": results, "usage": usage}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve OpenRouter's two operations; the key is in the environment."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append("GET")
            self._send(state.key_status, {"data": state.account})

        def do_POST(self) -> None:
            state.asked.append("POST")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if state.asked.count("POST") > state.fails_after:
                self._send(402, {"error": {"code": 402, "message": "no"}})
            else:
                self._send(200, answer_rerank(body))

        def _send(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{listener.server_port}/api/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("SHOP_KEY", KEY_CANARY)
    yield state
    listener.shutdown()
    listener.server_close()
    thread.join()


def remote(server: Server, **changes: Any) -> dict[str, Any]:
    """Return the endpoint part of a job of three requests for $0.003."""
    return {"endpoint": {"url": server.url, "api_key_env": "SHOP_KEY", **changes}}


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ({"limit_remaining": 74.5}, "$74.50 remain of the key's limit: enough"),
        ({"limit_remaining": 0.0035}, "$0.0035 remain of the key's limit: enough, but not for"),
        ({"limit_remaining": 0.002}, "$0.002 remain, the plan may cost $0.003: it cannot suffice"),
        ({"limit_remaining": 9, "effective_budget": {"remaining_usd": 0}}, "$0.00 remain, the"),
        ({"limit_remaining": None, "usage": 25.5}, "no limit of its own; $25.50 used so far"),
        ({}, "no limit of its own"),
    ],
)
def test_plan_holds_the_credit_against_the_price(
    tmp_path: Path, capsys: Capture, server: Server, account: dict[str, Any], words: str
) -> None:
    """One line says what remains and whether it suffices; the plan itself stands, exit 0."""
    server.account = account
    outcome = call(capsys, "plan", set_up(tmp_path, remote(server)))
    assert outcome.code == 0
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("Credit ")]
    assert words in line
    assert server.asked == ["GET"]


def test_plan_gives_the_account_as_json(tmp_path: Path, capsys: Capture, server: Server) -> None:
    """``account`` holds what the endpoint said, null where it was not asked or did not say."""
    server.account = {"limit": 100, "limit_remaining": 74.5, "usage": 25.5, "is_free_tier": False}
    account = call_json(capsys, "plan", set_up(tmp_path, remote(server)))["account"]
    assert account["limit_remaining"] == 74.5
    assert (account["is_free_tier"], account["budget_remaining"]) == (False, None)
    server.key_status = 500
    assert call_json(capsys, "plan", tmp_path / "job.yaml")["account"] is None
    assert call_json(capsys, "plan", write_job(tmp_path))["account"] is None


@pytest.mark.parametrize(("status", "words"), [(401, "the key is refused"), (404, "answers 404")])
def test_plan_says_why_the_credit_is_unknown(
    tmp_path: Path, capsys: Capture, server: Server, status: int, words: str
) -> None:
    """Without an account the price is printed all the same."""
    server.key_status = status
    outcome = call(capsys, "plan", set_up(tmp_path, remote(server)))
    assert outcome.code == 0
    assert f"unknown: {words}" in " ".join(outcome.out.split()).replace("it ", "")


def test_nothing_is_asked_where_there_is_nothing_to_know(
    tmp_path: Path, capsys: Capture, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key or a published plan: no question."""
    job = set_up(tmp_path, remote(server))
    monkeypatch.delenv("SHOP_KEY")
    call_json(capsys, "plan", job)
    assert server.asked == []
    monkeypatch.setenv("SHOP_KEY", KEY_CANARY)
    call_json(capsys, "run", job)
    assert server.asked == ["GET", "POST", "POST", "POST"]
    assert call_json(capsys, "plan", job)["account"] is None
    call_json(capsys, "run", job)
    assert len(server.asked) == 4


def test_a_run_that_the_key_cannot_pay_for_sends_nothing(
    tmp_path: Path, capsys: Capture, server: Server
) -> None:
    """Less than the planned cost is a stop before the first request; with more it goes on."""
    server.account = {"limit_remaining": 0.0029}
    job = set_up(tmp_path, remote(server))
    words = ("$0.0029 remain", "SHOP_KEY", "nothing is sent", "add credit", "run again")
    call(capsys, "run", job).assert_says(3, *words)
    assert server.asked == ["GET"]
    assert not (tmp_path / "out").exists()
    server.account = {"limit_remaining": 0.003}
    assert call_json(capsys, "run", job)["requests"] == 3
    assert len(read_table(tmp_path / "out")) == 12


def test_a_resumed_run_needs_only_what_is_left_to_pay(
    tmp_path: Path, capsys: Capture, server: Server
) -> None:
    """What is paid already is not asked of the credit again."""
    server.account = {"limit_remaining": 0.003}
    server.fails_after = 2
    job = set_up(tmp_path, remote(server, max_concurrency=1))
    call(capsys, "run", job).assert_says(3, "out of credit")
    server.fails_after = 10**9
    server.account = {"limit_remaining": 0.0005}
    call(capsys, "run", job).assert_says(3, "nothing is sent")
    server.account = {"limit_remaining": 0.001}
    assert call_json(capsys, "run", job)["requests"] == 1


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_question_without_an_answer_stops_no_run(
    tmp_path: Path, capsys: Capture, server: Server, status: int
) -> None:
    """An endpoint that knows no ``GET /key`` is used as before."""
    server.key_status = status
    assert call_json(capsys, "run", set_up(tmp_path, remote(server)))["requests"] == 3


def test_doctor_shows_credit_and_use(tmp_path: Path, capsys: Capture, server: Server) -> None:
    """What remains, today's use, the tier and the key's end stand in the endpoint's line."""
    server.account = {
        "limit_remaining": 74.5,
        "usage_daily": 1.25,
        "is_free_tier": True,
        "expires_at": "2027-12-31T23:59:59Z",
    }
    outcome = call(capsys, "doctor", set_up(tmp_path, remote(server)))
    (line,) = [line for line in outcome.out.splitlines() if "endpoint:" in line]
    assert line.startswith("ok ")
    for words in ("$74.50 of", "$1.25 used today", "free tier", "expires 2027-12-31"):
        assert words in line
    server.key_status = 401
    outcome = call(capsys, "doctor", tmp_path / "job.yaml")
    assert "refused the key (401): check SHOP_KEY" in outcome.out


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"secret_headers": {"X-Gateway": "GATEWAY_TOKEN"}}, 3, "GATEWAY_TOKEN"),
        ({"ca_file": "no/ca.pem"}, 2, "no/ca.pem"),
    ],
)
def test_a_way_that_cannot_be_gone_stops_before_planning(
    tmp_path: Path,
    capsys: Capture,
    server: Server,
    changes: dict[str, Any],
    code: int,
    words: str,
) -> None:
    """An unset secret header and a missing CA file stop a run; doctor finds them too."""
    job = set_up(tmp_path, remote(server, **changes))
    call(capsys, "run", job).assert_says(code, words)
    assert server.asked == []
    assert not list(tmp_path.glob("out.state/*/plan/*"))
    outcome = call(capsys, "doctor", job)
    outcome.assert_says(2, "checks failed")
    assert words in outcome.out


def test_no_secret_of_the_way_reaches_a_file_or_a_screen(
    tmp_path: Path, capsys: Capture, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of secret headers and proxy passwords stay out of output, state and messages."""
    monkeypatch.setenv("GATEWAY_TOKEN", TOKEN_CANARY)
    monkeypatch.setenv("HTTP_PROXY", f"http://user:{PROXY_CANARY}@127.0.0.1:9")
    changes = {"secret_headers": {"X-Gateway": "GATEWAY_TOKEN"}, "patience_seconds": 0}
    job = set_up(tmp_path, remote(server, proxy="environment", **changes))
    shown = [call(capsys, command, job) for command in ("doctor", "plan", "run")]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shown += [call(capsys, command, job) for command in ("doctor", "run", "plan")]
    assert [outcome.code for outcome in shown] == [2, 0, 3, 0, 0, 0]
    for outcome in shown:
        assert TOKEN_CANARY not in outcome.out + outcome.err
        assert PROXY_CANARY not in outcome.out + outcome.err
    for path in tmp_path.rglob("*"):
        data = b"" if path.is_dir() else path.read_bytes()
        assert TOKEN_CANARY.encode() not in data
        assert PROXY_CANARY.encode() not in data
