"""The two ways of one exchange: over the network by aiohttp, or through any httpx transport.

aiohttp is called directly for remote endpoints: an httpx transport around it costs a third more CPU
a request. The embedded endpoint, and tests, are reached through httpx's transport seam. Bodies are
read as they arrive, up to a bound; nothing is unpacked, retried, redirected or logged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import aiohttp
import httpx
from multidict import CIMultiDict
from yarl import URL

from rerank_jobs.score.access import Access

__all__ = ["HttpxWay", "NetworkWay", "RawAnswer", "ReplyTooLongError", "Way"]

CONNECT_SECONDS = 10.0
"""For one attempt at one address; names, proxy and TLS together get three times as long."""

KEEPALIVE_SECONDS = 15.0


class ReplyTooLongError(Exception):
    """The body has more bytes than may be read."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """Status, headers (looked up in lower case) and body, as they were sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Way(Protocol):
    """Sends one request, whatever becomes of it, and reads the whole answer."""

    async def exchange(self, body: bytes, max_bytes: int) -> RawAnswer:
        """Return the answer; raises errors of httpx or aiohttp, or ``ReplyTooLongError``."""

    async def aclose(self) -> None:
        """Close the connections."""


class HttpxWay:
    """Through an httpx transport."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        method: str,
        url: str,
        headers: Callable[[], httpx.Headers],
    ) -> None:
        """Take over ``transport``."""
        self._transport = transport
        self._method = method
        self._url = httpx.URL(url)
        self._headers = headers

    async def exchange(self, body: bytes, max_bytes: int) -> RawAnswer:
        """Return the answer; raises httpx's errors, or ``ReplyTooLongError``."""
        request = httpx.Request(self._method, self._url, headers=self._headers(), content=body)
        response = await self._transport.handle_async_request(request)
        # Not aiter_bytes: its decoders know no bound.
        stream = cast("httpx.AsyncByteStream", response.stream)
        try:
            whole = await _read(aiter(stream), max_bytes)
        finally:
            await stream.aclose()
        return RawAnswer(response.status_code, response.headers, whole)

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()


class NetworkWay:
    """Over the network; opens nothing before the first exchange, whose event loop it belongs to.

    Errors are aiohttp's own: they tell, as their translation into httpx's does not, whether the
    endpoint can have seen the request. Nobody but the caller bounds the time of an exchange once
    it is connected. The request target is sent as the URL spells it, escapes and all.
    """

    def __init__(
        self,
        access: Access,
        method: str,
        url: str,
        headers: Callable[[], httpx.Headers],
        *,
        max_connections: int,
        connect_seconds: float,
    ) -> None:
        """Prepare what all requests have in common."""
        self._access = access
        self._method = method
        # encoded: yarl would undo the escape of a colon in the path, which Bedrock asks for.
        self._url = URL(url, encoded=True)
        self._headers = headers
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(
            connect=3 * connect_seconds, sock_connect=connect_seconds
        )
        self._session: aiohttp.ClientSession | None = None
        self._prepared: Callable[[], CIMultiDict[str]] | None = None

    async def exchange(self, body: bytes, max_bytes: int) -> RawAnswer:
        """Return the answer; raises aiohttp's errors, or ``ReplyTooLongError``."""
        if self._session is None or self._prepared is None:
            self._session, self._prepared = self._open_session(), self._prepare_headers()
        proxy = self._access.proxy
        async with self._session.request(
            self._method,
            self._url,
            headers=self._prepared(),
            data=body or None,
            allow_redirects=False,
            timeout=self._timeout,
            proxy=proxy.url if proxy is not None else None,
            proxy_headers=self._proxy_headers(),
        ) as response:
            # The length is counted as it is sent; what came in pieces is counted on arrival.
            if response.content_length is not None and response.content_length <= max_bytes:
                whole = await response.read()
            else:
                whole = await _read(response.content.iter_any().__aiter__(), max_bytes)
            return RawAnswer(response.status, response.headers, whole)

    async def aclose(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        # Without TLS in sight no context is needed: making one reads every certificate.
        connector = aiohttp.TCPConnector(
            limit=self._max_connections,
            keepalive_timeout=KEEPALIVE_SECONDS,
            ssl=self._access.tls if self._access.tls is not None else True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )

    def _prepare_headers(self) -> Callable[[], CIMultiDict[str]]:
        headers = CIMultiDict(
            (name.decode(), value.decode()) for name, value in self._headers().raw
        )
        credentials = self._credentials()
        if credentials is not None and self._url.scheme == "http":
            headers["Proxy-Authorization"] = credentials
        # A function, and not the headers: no repr of whoever holds it shows them.
        return lambda: headers

    def _proxy_headers(self) -> dict[str, str] | None:
        credentials = self._credentials()
        if credentials is None or self._url.scheme == "http":
            return None
        return {"Proxy-Authorization": credentials}

    def _credentials(self) -> str | None:
        proxy = self._access.proxy
        if proxy is None or proxy.authorization is None:
            return None
        return proxy.authorization.reveal()


async def _read(parts: AsyncIterator[bytes], max_bytes: int) -> bytes:
    found, size = [], 0
    async for part in parts:
        found.append(part)
        size += len(part)
        if size > max_bytes:
            raise ReplyTooLongError
    return b"".join(found)
