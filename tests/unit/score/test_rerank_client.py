"""The client over real sockets on the loopback interface, and over given transports."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from rerank_jobs import __version__
from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.errors import KeyStop
from rerank_jobs.score import open_client
from rerank_jobs.score.client import SPARE_BYTES
from rerank_jobs.score.exchange import Answer, Lost

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]

BODY = b'{"query":"q"}'
KEY = "sk-or-v1-canary-key"


async def send_to(
    handler: Handler, *, timeout_seconds: float = 5.0, sends: int = 1, url: str = ""
) -> tuple[list[Answer | Lost], list[bytes]]:
    """Serve ``handler`` on a free port; return the answers and the requests as they came."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                requests.append(head + await reader.readexactly(len(BODY)))
                await handler(requests[-1], writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint(
        url=url or f"http://127.0.0.1:{port}/api/v1", timeout_seconds=timeout_seconds
    )
    client = open_client(endpoint, Secret(KEY))
    try:
        answers = [await client.send(BODY) for _ in range(sends)]
    finally:
        await client.aclose()
        server.close()
    return answers, requests


def respond(
    body: bytes, status: str = "200 OK", headers: str = "", length: int | None = None
) -> Handler:
    async def handler(_request: bytes, writer: asyncio.StreamWriter) -> None:
        size = len(body) if length is None else length
        head = f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        if length is not None:
            await writer.drain()
            writer.close()

    return handler


async def hang_up(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def say_nothing(_request: bytes, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def drip(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.3)


async def talk_nonsense(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SMTP ready\r\n\r\n")


async def flood(_request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    while not writer.is_closing():
        writer.write(chunk)
        await writer.drain()


def test_an_answer_comes_back_whole() -> None:
    """Status, headers and body of any status arrive, over one kept connection."""
    handler = respond(b'{"error":1}', "503 Down", "Retry-After: 7\r\n")
    answers, requests = asyncio.run(send_to(handler, sends=3))
    assert len(requests) == 3
    for answer in answers:
        assert isinstance(answer, Answer)
        assert (answer.status, answer.body) == (503, b'{"error":1}')
        assert answer.headers.get("retry-after") == "7"
        assert 0 < answer.latency_seconds < 5


def test_the_request_is_what_the_contract_asks_for() -> None:
    """Path, explicit headers and body are sent, and no header that we did not choose."""
    _, (request,) = asyncio.run(send_to(respond(b"{}")))
    head, body = request.split(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    assert line == "POST /api/v1/rerank HTTP/1.1"
    assert body == BODY
    assert headers.pop("host").startswith("127.0.0.1:")
    assert headers == {
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "gzip",
        "user-agent": f"rerank-jobs/{__version__}",
        "content-length": str(len(BODY)),
    }


def test_a_compressed_answer_is_unpacked() -> None:
    """gzip, which we accept, is undone."""
    handler = respond(gzip.compress(b"{}", mtime=0), headers="Content-Encoding: gzip\r\n")
    ((answer,), _) = asyncio.run(send_to(handler))
    assert isinstance(answer, Answer)
    assert answer.body == b"{}"


def pack(data: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("deflate", pack(b"{}", 15)),
        ("deflate", pack(b"{}", -15)),
        ("X-GZIP", gzip.compress(b"{}", mtime=0)),
        ("deflate, gzip", gzip.compress(pack(b"{}", 15), mtime=0)),
        ("identity", b"{}"),
    ],
)
def test_an_encoding_that_was_not_asked_for_is_undone(encoding: str, packed: bytes) -> None:
    """Deflate in both its forms, gzip by its old name, and one in the other."""
    handler = respond(packed, headers=f"Content-Encoding: {encoding}\r\n")
    ((answer,), _) = asyncio.run(send_to(handler))
    assert isinstance(answer, Answer)
    assert answer.body == b"{}"


def test_an_empty_answer_needs_no_unpacking() -> None:
    """An error without a body keeps its status, whatever encoding it names."""
    handler = respond(b"", "503 Down", "Content-Encoding: gzip\r\n")
    ((answer,), _) = asyncio.run(send_to(handler))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (503, b"")


@pytest.mark.parametrize(
    ("packed", "lost"),
    [
        (gzip.compress(bytes(4 * SPARE_BYTES), mtime=0), Lost("reply is too long", reached=True)),
        (gzip.compress(b"{}", mtime=0)[:-3], Lost("reply cannot be unpacked", reached=True)),
        (b"{}", Lost("reply cannot be unpacked", reached=True)),
    ],
)
def test_an_answer_that_cannot_be_unpacked_may_be_charged(packed: bytes, lost: Lost) -> None:
    """A bomb, a torn and a false gzip are replies that are lost; a bomb is not unpacked."""
    handler = respond(packed, headers="Content-Encoding: gzip\r\n")
    assert asyncio.run(send_to(handler))[0] == [lost]


def test_a_redirect_is_not_followed() -> None:
    """A key is never sent where the job did not say: the redirect itself is the answer."""
    handler = respond(b"", "307 Moved", "Location: http://127.0.0.1:1/\r\n")
    ((answer,), requests) = asyncio.run(send_to(handler))
    assert isinstance(answer, Answer)
    assert answer.status == 307
    assert len(requests) == 1


def test_cookies_are_not_kept() -> None:
    """What an edge sets is not sent back."""
    handler = respond(b"{}", headers="Set-Cookie: a=b; Path=/\r\n")
    _, requests = asyncio.run(send_to(handler, sends=2))
    assert b"ookie" not in requests[1]


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy variable does not divert the key."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    ((answer,), _) = asyncio.run(send_to(respond(b"{}")))
    assert isinstance(answer, Answer)


def test_a_refused_connection_was_surely_not_charged() -> None:
    """Nobody listens: the endpoint saw nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ((answer,), _) = asyncio.run(send_to(hang_up, url=f"http://127.0.0.1:{port}/v1"))
    assert answer == Lost("no connection", reached=False)


def test_a_failed_tls_handshake_was_surely_not_charged() -> None:
    """A TLS client at a plain server never gets as far as a request."""

    async def main() -> Answer | Lost:
        async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(close, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = open_client(Endpoint(url=f"https://127.0.0.1:{port}/v1"), None)
        try:
            return await client.send(BODY)
        finally:
            await client.aclose()
            server.close()

    assert asyncio.run(main()) == Lost("TLS failed", reached=False)


@pytest.mark.parametrize(
    "handler", [hang_up, reset, talk_nonsense, respond(b"{", length=50)], ids=lambda h: h.__name__
)
def test_a_connection_that_broke_after_the_send_may_be_charged(handler: Handler) -> None:
    """The endpoint had the request: whether it was charged is unknown."""
    ((answer,), _) = asyncio.run(send_to(handler))
    assert answer == Lost("connection broke", reached=True)


@pytest.mark.parametrize("handler", [say_nothing, drip], ids=lambda h: h.__name__)
def test_a_timeout_bounds_the_whole_exchange(handler: Handler) -> None:
    """Silence and a dripping body both end at the timeout, of unknown fate."""
    ((answer,), _) = asyncio.run(send_to(handler, timeout_seconds=1.0))
    assert answer == Lost("timeout", reached=True)


def test_an_endless_body_is_cut_off() -> None:
    """A reply far longer than any echo of the request does not fill the memory."""
    ((answer,), _) = asyncio.run(send_to(flood))
    assert answer == Lost("reply is too long", reached=True)
    assert SPARE_BYTES < 10**7


class Given(httpx.AsyncBaseTransport):
    """Answers in process, or raises."""

    def __init__(self, answer: httpx.Response | Exception) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def send_through(transport: Given, endpoint: Endpoint, key: Secret | None = None) -> Any:
    async def main() -> Answer | Lost:
        client = open_client(endpoint, key, transport=transport)
        try:
            return await client.send(BODY)
        finally:
            await client.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (httpx.ConnectError("x"), Lost("no connection", reached=False)),
        (httpx.ConnectTimeout("x"), Lost("no connection", reached=False)),
        (httpx.PoolTimeout("x"), Lost("no connection", reached=False)),
        (httpx.ReadTimeout("x"), Lost("timeout", reached=True)),
        (httpx.ReadError("x"), Lost("connection broke", reached=True)),
        (httpx.RemoteProtocolError("x"), Lost("connection broke", reached=True)),
    ],
)
def test_a_transports_errors_tell_the_fate(error: Exception, lost: Lost) -> None:
    """The errors of httpx are sorted by whether the endpoint can have seen the request."""
    assert send_through(Given(error), Endpoint()) == lost


def test_an_error_in_the_embedded_endpoint_is_not_hidden() -> None:
    """A bug behind the transport comes out: it is no fate of a send."""
    with pytest.raises(ZeroDivisionError):
        send_through(Given(ZeroDivisionError()), Endpoint())


def test_the_embedded_endpoint_is_addressed_like_openrouter() -> None:
    """In process the path is the API's, and no Authorization header is sent."""
    transport = Given(httpx.Response(200, content=b"{}"))
    answer = send_through(transport, Endpoint())
    assert answer.status == 200
    (request,) = transport.requests
    assert request.url.path == "/api/v1/rerank"
    assert "authorization" not in request.headers


def test_the_embedded_endpoint_needs_a_transport() -> None:
    """Without one there is nothing to reach."""
    with pytest.raises(ValueError, match="transport"):
        open_client(Endpoint(), None)


@pytest.mark.parametrize("key", ["sk-or\nv1", "sk-or-ключ", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    """The message names the variable, never the key."""
    with pytest.raises(KeyStop, match="OPENROUTER_API_KEY") as caught:
        open_client(Endpoint(url="https://api.test/v1"), Secret(key))
    assert key not in str(caught.value)
