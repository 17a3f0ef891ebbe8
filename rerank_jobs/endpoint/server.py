"""Run the embedded endpoint on a port until a signal comes."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from rerank_jobs.endpoint.app import API_PREFIX, create_app
from rerank_jobs.endpoint.breaking import TRANSPORT
from rerank_jobs.errors import JobError

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "serve"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8787

_GRACE_SECONDS = 5


def serve(host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, **app_options: Any) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests under way (5 s) and return.

    Prints ``listening on http://HOST:PORT/api/v1`` on standard output once connections are
    accepted; port 0 takes a free port. ``app_options`` are those of ``create_app``. Raises
    JobError when the address cannot be bound or the scorer's packages are missing.
    """
    app = create_app(**app_options)
    with _bind(host, port) as listener:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        bound_host, bound_port = listener.getsockname()[:2]
        shown_host = f"[{bound_host}]" if ":" in bound_host else bound_host
        sys.stdout.write(f"listening on http://{shown_host}:{bound_port}{API_PREFIX}\n")
        sys.stdout.flush()
        _Server(config).run(sockets=[listener])


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP, with the connection's transport in the scope: faults reset or close it."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take over a connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, TRANSPORT: transport}


class _Server(uvicorn.Server):
    """A server for which SIGINT and SIGTERM are an order to end, not a way to die.

    uvicorn raises the signal again after its shutdown, which would end the process with -15.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Turn both signals into a graceful exit; the former handlers come back afterwards."""
        former = {
            number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        msg = f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        raise JobError(msg) from error
