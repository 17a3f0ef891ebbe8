"""The one place that talks HTTP: a body goes out, an answer or a reason for its absence returns.

Nothing is retried, redirected or logged here.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import quote

import aiohttp
import httpx

from rerank_jobs import __version__
from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.errors import KeyStop
from rerank_jobs.score.access import Access, read_access
from rerank_jobs.score.dialects import DIALECTS
from rerank_jobs.score.exchange import Answer, Lost
from rerank_jobs.score.transport import (
    CONNECT_SECONDS,
    HttpxWay,
    NetworkWay,
    ReplyTooLongError,
    Way,
)

__all__ = ["EMBEDDED_URL", "RerankClient", "open_client", "open_key_client"]

EMBEDDED_URL = "http://embedded/api/v1"
"""What an embedded endpoint is addressed by; nothing of it reaches a network."""

MAX_ECHO = 8
"""A reply, which echoes, may be so many times as long as its request, plus ``SPARE_BYTES``."""

SPARE_BYTES = 1 << 20

_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


def open_client(
    endpoint: Endpoint,
    key: Secret | None,
    *,
    access: Access | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> RerankClient:
    """Return a client for the endpoint; ``aclose`` it in the event loop that used it.

    ``access`` is what ``read_access`` returned, read now if it is left out. ``transport`` replaces
    the network: the embedded endpoint needs one. Proxies of the environment are used only where
    the job says so, credentials of a ``.netrc`` never.

    Raises:
        KeyStop: the key holds characters that no HTTP header can carry.
        KeyStop, JobError: see ``read_access``.

    """
    dialect = DIALECTS[endpoint.dialect]
    path = dialect.path.replace("{model}", quote(endpoint.model, safe=""))
    access = access or read_access(endpoint)
    return _open("POST", path, endpoint, key, access, transport, endpoint.timeout_seconds)


def open_key_client(
    endpoint: Endpoint,
    key: Secret | None,
    *,
    access: Access,
    transport: httpx.AsyncBaseTransport | None,
    timeout_seconds: float,
) -> RerankClient:
    """Return a client that asks, by ``send(b"")``, for what the endpoint knows of the key.

    Raises:
        KeyStop: the key holds characters that no HTTP header can carry.

    """
    return _open("GET", "/key", endpoint, key, access, transport, timeout_seconds)


def _open(
    method: str,
    path: str,
    endpoint: Endpoint,
    key: Secret | None,
    access: Access,
    transport: httpx.AsyncBaseTransport | None,
    timeout_seconds: float,
) -> RerankClient:
    url = (EMBEDDED_URL if endpoint.embedded else endpoint.url).rstrip("/") + path
    headers = _make_headers(endpoint, key, access)
    way: Way
    if transport is not None:
        way = HttpxWay(transport, method, url, headers)
    elif endpoint.embedded:
        raise ValueError("the embedded endpoint needs a transport")
    else:
        way = NetworkWay(
            access,
            method,
            url,
            headers,
            max_connections=endpoint.max_concurrency,
            connect_seconds=min(CONNECT_SECONDS, timeout_seconds),
        )
    return RerankClient(way, timeout_seconds)


def _make_headers(
    endpoint: Endpoint, key: Secret | None, access: Access
) -> Callable[[], httpx.Headers]:
    """Return a function that gives the headers of all requests: they hold secrets.

    Later ones replace earlier ones of the same name: the dialect's, ours, the app's, the job's.
    """
    if key is not None and not (key.reveal().isascii() and key.reveal().isprintable()):
        raise KeyStop(
            f"the API key in {endpoint.key_place} holds characters that no key has:"
            " copy it again and run again"
        )
    headers = httpx.Headers(DIALECTS[endpoint.dialect].headers)
    headers["Accept-Encoding"] = "gzip"
    headers["User-Agent"] = f"rerank-jobs/{__version__}"
    for name, value in (*_describe_app(endpoint), *endpoint.headers.items()):
        headers[name] = value
    for name, secret in access.headers:
        headers[name] = secret.reveal()
    if key is not None:
        headers["Authorization"] = f"Bearer {key.reveal()}"
    # A function, and not the headers: no repr of whoever holds it shows them.
    return lambda: headers


def _describe_app(endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    """Yield OpenRouter's headers of app attribution; the title has an old name and a new one."""
    app = endpoint.app
    if app.url is not None:
        yield "HTTP-Referer", app.url
    if app.title is not None:
        yield "X-OpenRouter-Title", app.title
        yield "X-Title", app.title
    if app.categories:
        yield "X-OpenRouter-Categories", ",".join(app.categories)


class RerankClient:
    """Sends request bodies to one endpoint; safe for many sends at once in one event loop."""

    def __init__(self, way: Way, timeout_seconds: float) -> None:
        """Take over ``way``; ``timeout_seconds`` bounds a whole exchange."""
        self._way = way
        self._timeout = timeout_seconds

    async def send(self, body: bytes) -> Answer | Lost:
        """Send ``body`` once and return the whole answer, whatever its status.

        ``Lost`` says whether the endpoint may have seen (and charged) the request.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(body, MAX_ECHO * len(body) + SPARE_BYTES)
        except ReplyTooLongError:
            return Lost("reply is too long", reached=True)
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            return _classify(error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._way.aclose()

    async def _exchange(self, body: bytes, max_bytes: int) -> Answer | Lost:
        loop = asyncio.get_running_loop()
        started = loop.time()
        raw = await self._way.exchange(body, max_bytes)
        latency = loop.time() - started
        if raw.status == 407:
            # It is the proxy that says so: the endpoint has not seen the request.
            return Lost("the proxy refused", reached=False)
        whole = raw.body
        if "content-encoding" in raw.headers:
            unpacked = _unpack(whole, raw.headers["content-encoding"], max_bytes)
            if isinstance(unpacked, Lost):
                return unpacked
            whole = unpacked
        return Answer(raw.status, raw.headers, whole, latency)


def _unpack(body: bytes, encoding: str, max_bytes: int) -> bytes | Lost:
    """Undo gzip and deflate up to ``max_bytes``; another encoding, not asked for, stays."""
    if not body:
        return body
    for name in reversed(encoding.lower().replace(" ", "").split(",")):
        if name in {"gzip", "x-gzip"}:
            window = zlib.MAX_WBITS | 16
        elif name == "deflate":
            # With the header that the standard asks for, or raw, as some servers send it.
            window = zlib.MAX_WBITS if body[:1] == b"x" else -zlib.MAX_WBITS
        else:
            continue
        unpacker = zlib.decompressobj(window)
        try:
            body = unpacker.decompress(body, max_bytes)
        except zlib.error:
            return Lost("reply cannot be unpacked", reached=True)
        if not unpacker.eof:
            long = len(body) == max_bytes
            return Lost(f"reply {'is too long' if long else 'cannot be unpacked'}", reached=True)
    return body


def _classify(error: Exception) -> Lost:
    # Other transports may rename aiohttp's errors, and call a connection that broke after the send
    # a connect timeout: only the original tells whether the endpoint can have seen the request.
    origin = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(origin, aiohttp.ClientSSLError):
        return Lost("TLS failed", reached=False)
    if isinstance(origin, aiohttp.ClientHttpProxyError | httpx.ProxyError):
        return Lost("the proxy refused", reached=False)
    if isinstance(origin, _NOT_CONNECTED):
        return Lost("no connection", reached=False)
    if isinstance(origin, TimeoutError | httpx.TimeoutException):
        return Lost("timeout", reached=True)
    return Lost("connection broke", reached=True)
