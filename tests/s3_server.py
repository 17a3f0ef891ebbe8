"""An S3 server on loopback for tests: moto's, with faults on demand, in a process of its own.

    with serve_s3() as server:
        os.environ.update(server.env)
        open_store(server.make_bucket("jobs") + "/state")

moto looks whether a key exists and then writes it, in two steps; S3 does both at once. So requests
are answered one at a time here.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

__all__ = ["FAULTS", "S3Server", "serve_s3"]

LATE_SECONDS = 1.0
FAULTS = {
    "drop": "takes effect, then the connection is closed without a reply",
    "drop_before": "the connection is closed without effect",
    "500_after": "takes effect, then 500",
    "500_before": "500 without effect",
    "503_before": "503 SlowDown without effect",
    "403": "403 AccessDenied without effect",
    "409": "409 ConditionalRequestConflict without effect: another create is in flight",
    "412_after": "takes effect, then 412, as a retry inside a proxy would be answered",
    "late": f"takes effect, and the reply comes {LATE_SECONDS} seconds late",
    "ignore_condition": "takes effect, whatever If-None-Match says",
}
"""Faults by name; each says what happens to the request that it strikes."""

CONTROL = "/_faults"


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server: its URL, and the environment that leads obstore to it."""

    url: str
    env: dict[str, str] = field(repr=False)

    def make_bucket(self, name: str) -> str:
        """Create an empty bucket; return its location."""
        httpx.put(f"{self.url}/{name}").raise_for_status()
        return f"s3://{name}"

    def inject(self, *faults: str, method: str = "PUT", path: str = "") -> None:
        """Let the next requests of ``method`` whose path holds ``path`` meet ``faults`` in turn.

        They come after those that were injected before and that nobody has met.
        """
        assert set(faults) <= set(FAULTS)
        document = {"faults": faults, "method": method, "path": path}
        httpx.post(f"{self.url}{CONTROL}", json=document).raise_for_status()

    def count_left(self) -> int:
        """Return how many injected faults nobody has met yet."""
        return int(httpx.get(f"{self.url}{CONTROL}").json()["left"])

    def list_requests(self) -> list[str]:
        """Return ``METHOD /path status`` of every request since the last time; then forget them.

        A fault stands in the status's place; faults that nobody has met are forgotten too.
        """
        found: list[str] = httpx.delete(f"{self.url}{CONTROL}").json()["requests"]
        return found


@contextlib.contextmanager
def serve_s3() -> Iterator[S3Server]:
    """Run a server on a free port until the context ends; it is ended by its pid."""
    command = [sys.executable, "-m", "tests.s3_server"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on "), line
            url = line.removeprefix("listening on ").strip()
            yield S3Server(url, make_environment(url))
        finally:
            process.terminate()


def make_environment(url: str) -> dict[str, str]:
    """Return the standard variables that lead an S3 client to ``url``, with a made-up key."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test-access-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_REGION": "us-east-1",
    }


Environ = dict[str, Any]
Start = Callable[..., Any]
Headers = list[tuple[str, str]]


class FaultyS3:
    """moto as a WSGI application that answers one request at a time and fails on demand."""

    def __init__(self, application: Callable[[Environ, Start], Iterable[bytes]]) -> None:
        """Wrap moto's application."""
        self._application = application
        self._lock = threading.Lock()
        self._faults: list[tuple[str, str, str]] = []
        self._requests: list[str] = []

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Answer, or fail as the first fault that fits says."""
        with self._lock:
            if environ["PATH_INFO"] == CONTROL:
                return [self._control(environ, start)]
            fault, status, headers, body = self._answer(environ)
        if fault == "late":  # others are answered meanwhile
            time.sleep(LATE_SECONDS)
        if fault in {"drop", "drop_before"}:
            _hang_up(environ)
        start(status, headers)
        return [body]

    def _control(self, environ: Environ, start: Start) -> bytes:
        document: dict[str, Any] = {"left": len(self._faults)}
        if environ["REQUEST_METHOD"] == "POST":
            order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            self._faults += [(name, order["method"], order["path"]) for name in order["faults"]]
        elif environ["REQUEST_METHOD"] == "DELETE":
            document["requests"] = self._requests
            self._requests, self._faults = [], []
        data = json.dumps(document).encode()
        start("200 OK", [("Content-Length", str(len(data)))])
        return data

    def _answer(self, environ: Environ) -> tuple[str | None, str, Headers, bytes]:
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        # Read whole, or what is left of it would be taken for the connection's next request.
        environ["wsgi.input"] = io.BytesIO(
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        )
        fault = self._take_fault(environ)
        if fault == "ignore_condition":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        status, body = "", b""
        headers: Headers = []
        if fault in {None, "drop", "500_after", "412_after", "late", "ignore_condition"}:
            status, headers, body = self._ask(environ)
        self._requests.append(f"{line} {fault or status[:3]}")
        if fault is not None and fault[:3].isdecimal():
            status, headers, body = _refuse(fault)
        return fault, status, headers, body

    def _take_fault(self, environ: Environ) -> str | None:
        for number, (name, method, path) in enumerate(self._faults):
            if environ["REQUEST_METHOD"] == method and path in environ["PATH_INFO"]:
                del self._faults[number]
                return name
        return None

    def _ask(self, environ: Environ) -> tuple[str, Headers, bytes]:
        answer: list[Any] = []
        body = b"".join(self._application(environ, lambda *given: answer.extend(given)))
        return answer[0], answer[1], body


def _refuse(fault: str) -> tuple[str, Headers, bytes]:
    status, code = {
        "500": ("500 Internal Server Error", "InternalError"),
        "503": ("503 Slow Down", "SlowDown"),
        "403": ("403 Forbidden", "AccessDenied"),
        "409": ("409 Conflict", "ConditionalRequestConflict"),
        "412": ("412 Precondition Failed", "PreconditionFailed"),
    }[fault[:3]]
    body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    kind = ("Content-Type", "application/xml")
    return status, [kind, ("Content-Length", str(len(body)))], body


def _hang_up(environ: Environ) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionError("hung up on purpose")


def main() -> None:
    """Serve on a free port until the process is ended."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    moto = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, FaultyS3(moto), threaded=True)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
