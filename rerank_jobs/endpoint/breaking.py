"""Faults below HTTP: connections reset, closed too early, or silent.

Under ``server.serve`` the real TCP connection is reset or closed. In-process (httpx's ASGI
transport) there is none, so the app raises ConnectionResetError, which is what the caller meets.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from rerank_jobs.endpoint.kinds import Breakage
from rerank_jobs.endpoint.wire import WireAnswer

__all__ = ["TRANSPORT", "break_answer", "make_response"]

TRANSPORT = "rerank_jobs.transport"
"""The key in an ASGI scope's ``state`` under which the server puts the connection's transport."""

_PIECES = 20

Sleep = Callable[[float], Awaitable[None]]


def make_response(answer: WireAnswer) -> Response:
    """Return an answer as Starlette sends it."""
    return Response(answer.body, answer.status, answer.headers, answer.content_type)


def break_answer(
    breakage: Breakage, answer: WireAnswer, *, seconds: float, sleep: Sleep
) -> ASGIApp:
    """Return the app that fails to send ``answer`` as ``breakage`` says, within ``seconds``."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        if seconds > 0 and breakage not in {Breakage.DRIBBLE, Breakage.HANG}:
            await sleep(seconds)
        match breakage:
            case Breakage.RESET:
                await _cut(scope, receive, reset=True)
            case Breakage.RESET_MID_BODY | Breakage.TRUNCATE:
                await _send_half(answer, send)
                await _cut(scope, receive, reset=breakage is Breakage.RESET_MID_BODY)
            case Breakage.DRIBBLE:
                await _dribble(answer, send, seconds / _PIECES, sleep)
            case Breakage.HANG:
                await _wait(seconds, receive, sleep)
                await _cut(scope, receive, reset=True)
            case Breakage.NONE:
                await make_response(answer)(scope, receive, send)

    return respond


async def _cut(scope: Scope, receive: Receive, *, reset: bool) -> None:
    transport: asyncio.Transport | None = scope.get("state", {}).get(TRANSPORT)
    if transport is None:
        raise ConnectionResetError("a fault reset the connection")
    if reset and not transport.is_closing():
        # Lingering for zero seconds makes the kernel send RST and not FIN.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    transport.close()
    # Until the server has noticed, a return would count as an answer that the app forgot.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_half(answer: WireAnswer, send: Send) -> None:
    await _start(answer, send)
    half = answer.body[: len(answer.body) // 2]
    await send({"type": "http.response.body", "body": half, "more_body": True})


async def _dribble(answer: WireAnswer, send: Send, pause: float, sleep: Sleep) -> None:
    await _start(answer, send)
    size = -(-len(answer.body) // _PIECES)
    for start in range(0, len(answer.body), size):
        piece = answer.body[start : start + size]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await sleep(pause)
    await send({"type": "http.response.body", "body": b""})


async def _start(answer: WireAnswer, send: Send) -> None:
    headers = make_response(answer).raw_headers
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


async def _wait(seconds: float, receive: Receive, sleep: Sleep) -> None:
    """Sleep, but no longer than the client stays."""
    sleeping = asyncio.ensure_future(sleep(seconds))
    leaving = asyncio.ensure_future(_await_leave(receive))
    try:
        await asyncio.wait({sleeping, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeping.cancel()
        leaving.cancel()


async def _await_leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
