"""The way over the network: an httpx transport on aiohttp, as lean as the seam allows.

The parent's own way of one request costs as much again as aiohttp does. Here the URL is translated
once, the body is read as it arrives, and nothing is unpacked, retried, redirected or logged.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from yarl import URL

from rerank_jobs.score.access import Access

__all__ = ["LeanTransport"]

CONNECT_SECONDS = 10.0
"""For one attempt at one address; names, proxy and TLS together get three times as long."""

KEEPALIVE_SECONDS = 15.0


class LeanTransport(AiohttpTransport):
    """Sends each request once and hands the body on as it was sent.

    Errors are aiohttp's own: they tell, as their translation into httpx's does not, whether the
    endpoint can have seen the request. Nobody but the caller bounds the time of an exchange once
    it is connected. The request target is sent as the URL spells it, escapes and all.
    """

    def __init__(self, access: Access, *, max_connections: int, connect_seconds: float) -> None:
        """Open nothing yet: the session begins with the first request, in its event loop."""
        super().__init__(
            verify=access.tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=False,
            client=functools.partial(self._open_session, max_connections),
        )
        self._by_proxy = access.proxy
        self._timeout = aiohttp.ClientTimeout(
            connect=3 * connect_seconds, sock_connect=connect_seconds
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the head of the answer; its stream reads the rest."""
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        proxy_headers = None
        if self._by_proxy is not None and self._by_proxy.authorization is not None:
            credentials = ("Proxy-Authorization", self._by_proxy.authorization.reveal())
            if request.url.scheme == "https":
                proxy_headers = [credentials]
            else:
                headers.append(credentials)
        response = await self.client.request(
            request.method,
            _translate(str(request.url)),
            headers=headers,
            data=request.content or None,
            allow_redirects=False,
            timeout=self._timeout,
            proxy=self._by_proxy.url if self._by_proxy is not None else None,
            proxy_headers=proxy_headers,
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response))

    def _open_session(self, max_connections: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=max_connections, keepalive_timeout=KEEPALIVE_SECONDS, ssl=self.ssl_context
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )


class _Body(httpx.AsyncByteStream):
    """The body as it arrives, in pieces of whatever size the socket gave."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.content.iter_any().__aiter__()

    async def aclose(self) -> None:
        """Give the connection back, or close it if the body was not read to its end."""
        await self._response.__aexit__(None, None, None)


@functools.lru_cache(maxsize=16)
def _translate(url: str) -> URL:
    # encoded: yarl would undo the escape of a colon in the path, which Bedrock asks for.
    return URL(url, encoded=True)
