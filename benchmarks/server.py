"""A rerank server that costs next to nothing: prepared replies over keep-alive HTTP/1.1.

Run as ``python -m benchmarks.server``; it prints its address and serves until it is terminated.
``POST .../v2/rerank`` gets Cohere's reply (no documents), any other path OpenRouter's, which echoes
documents of the load's size. Scores depend on nothing; what is sent is read and dropped.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import orjson
import uvloop

from benchmarks.load import DOCUMENTS, MODEL, make_calls

__all__ = ["serve_apart"]

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


@contextmanager
def serve_apart() -> Iterator[str]:
    """Serve in a process of its own; yield the address, without a path."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def main() -> None:
    """Serve on a free port of the loopback interface."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())


async def _serve() -> None:
    plain, cohere = _make_replies()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(plain, cohere), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


def _make_replies() -> tuple[bytes, bytes]:
    """Return a whole HTTP response in OpenRouter's shape, and one in Cohere's."""
    (call,) = make_calls(1)
    draw = random.Random(5)
    scores = sorted((draw.random() for _ in range(DOCUMENTS)), reverse=True)
    order = draw.sample(range(DOCUMENTS), DOCUMENTS)
    results = [
        {"index": index, "relevance_score": score}
        for index, score in zip(order, scores, strict=True)
    ]
    echoed = [
        {**result, "document": {"text": text}}
        for result, text in zip(results, call.documents, strict=True)
    ]
    usage = {"search_units": 1, "total_tokens": 5500, "cost": 0.001}
    about = {"id": "gen-rerank-1790000000-bench", "model": MODEL, "provider": "Cohere"}
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1.0}}
    return (
        _make_response({**about, "results": echoed, "usage": usage}),
        _make_response({"id": about["id"], "results": results, "meta": meta}),
    )


def _make_response(body: dict[str, Any]) -> bytes:
    data = orjson.dumps(body)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


class _Connection(asyncio.Protocol):
    """Answers each request as soon as its body has been read; bodies need a Content-Length."""

    def __init__(self, plain: bytes, cohere: bytes) -> None:
        self._plain = plain
        self._cohere = cohere
        self._head = b""
        self._missing = 0
        self._reply = plain

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        while data:
            if not self._missing:
                data = self._read_head(data)
            used = min(self._missing, len(data))
            self._missing -= used
            data = data[used:]
            if not self._missing and not self._head:
                self._transport.write(self._reply)

    def _read_head(self, data: bytes) -> bytes:
        """Take a head, or the beginning of one; return what follows it."""
        head, end, rest = (self._head + data).partition(_END_OF_HEAD)
        if not end:
            self._head = head
            return b""
        self._head = b""
        line, _, fields = head.lower().partition(_LENGTH)
        self._reply = self._cohere if b"/v2/rerank " in line.split(b"\r\n")[0] else self._plain
        self._missing = int(fields.partition(b"\r\n")[0])
        return rest


if __name__ == "__main__":
    main()
