"""The one place that talks HTTP: a body goes out, an answer or a reason for its absence returns.

httpx transports are called directly, over aiohttp for remote endpoints: a client object on top
of them costs more than the transport itself. Nothing is retried, redirected or logged here.
"""

from __future__ import annotations

import asyncio

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from rerank_jobs import __version__
from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.errors import KeyStop
from rerank_jobs.score.dialects import DIALECTS
from rerank_jobs.score.exchange import Answer, Dialect, Lost

__all__ = ["EMBEDDED_URL", "RerankClient", "open_client"]

EMBEDDED_URL = "http://embedded/api/v1"
"""What an embedded endpoint is addressed by; nothing of it reaches a network."""

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 15.0
MAX_ECHO = 8
"""A reply, which echoes, may be so many times as long as its request, plus ``SPARE_BYTES``."""

SPARE_BYTES = 1 << 20

_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


def open_client(
    endpoint: Endpoint,
    key: Secret | None,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
) -> RerankClient:
    """Return a client for the endpoint; ``aclose`` it in the event loop that used it.

    ``transport`` replaces the network: the embedded endpoint needs one. Proxies and credentials of
    the environment are never used.

    Raises:
        KeyStop: the key holds characters that no HTTP header can carry.

    """
    if key is not None and not (key.reveal().isascii() and key.reveal().isprintable()):
        raise KeyStop(
            f"the API key in {endpoint.api_key_env} holds characters that no key has:"
            " copy it again and run again"
        )
    if transport is None:
        if endpoint.embedded:
            raise ValueError("the embedded endpoint needs a transport")
        transport = _open_transport(endpoint.max_concurrency)
    return RerankClient(
        transport=transport,
        url=EMBEDDED_URL if endpoint.embedded else endpoint.url,
        dialect=DIALECTS[endpoint.dialect],
        key=key,
        timeout_seconds=endpoint.timeout_seconds,
    )


def _open_transport(max_connections: int) -> AiohttpTransport:
    context = httpx.create_ssl_context()

    def open_session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=max_connections, keepalive_timeout=KEEPALIVE_SECONDS, ssl=context
        )
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )

    return AiohttpTransport(verify=context, trust_env=False, client=open_session)


class RerankClient:
    """Sends request bodies to one endpoint; safe for many sends at once in one event loop."""

    def __init__(
        self,
        *,
        transport: httpx.AsyncBaseTransport,
        url: str,
        dialect: Dialect,
        key: Secret | None,
        timeout_seconds: float,
    ) -> None:
        """Take over ``transport``; ``timeout_seconds`` bounds a whole exchange."""
        self._transport = transport
        self._url = httpx.URL(url.rstrip("/") + dialect.path)
        self._key = key
        self._timeout = timeout_seconds
        self._headers = (
            *dialect.headers,
            ("Accept-Encoding", "gzip"),
            ("User-Agent", f"rerank-jobs/{__version__}"),
        )
        connect = min(CONNECT_SECONDS, timeout_seconds)
        self._extensions = {
            "timeout": {
                "connect": connect,
                "read": timeout_seconds,
                "write": timeout_seconds,
                "pool": timeout_seconds,
            }
        }

    async def send(self, body: bytes) -> Answer | Lost:
        """Post ``body`` once and return the whole answer, whatever its status.

        ``Lost`` says whether the endpoint may have seen (and charged) the request.
        """
        headers = list(self._headers)
        if self._key is not None:
            headers.append(("Authorization", f"Bearer {self._key.reveal()}"))
        request = httpx.Request(
            "POST", self._url, headers=headers, content=body, extensions=self._extensions
        )
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(request, MAX_ECHO * len(body) + SPARE_BYTES)
        except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
            return _classify(error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _exchange(self, request: httpx.Request, max_bytes: int) -> Answer | Lost:
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await self._transport.handle_async_request(request)
        try:
            parts, size = [], 0
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    return Lost("reply is too long", reached=True)
        finally:
            await response.aclose()
        latency = loop.time() - started
        return Answer(response.status_code, response.headers, b"".join(parts), latency)


def _classify(error: Exception) -> Lost:
    # The transport renames aiohttp's errors, and calls a connection that broke after the send a
    # connect timeout: only the original tells whether the endpoint can have seen the request.
    origin = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(origin, aiohttp.ClientSSLError):
        return Lost("TLS failed", reached=False)
    if isinstance(origin, _NOT_CONNECTED):
        return Lost("no connection", reached=False)
    if isinstance(origin, TimeoutError | httpx.TimeoutException):
        return Lost("timeout", reached=True)
    return Lost("connection broke", reached=True)
