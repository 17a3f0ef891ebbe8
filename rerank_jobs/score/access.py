"""How an endpoint is reached: what the environment and the disk know of it, read before a run.

Nothing here shows a secret: credentials are ``Secret`` from the moment that they are read.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from rerank_jobs.config import Endpoint, Secret, read_secret_headers
from rerank_jobs.config.endpoint import ENVIRONMENT
from rerank_jobs.errors import JobError

__all__ = ["Access", "Proxy", "read_access"]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy by its URL, which holds no credentials, and the header that does."""

    url: str
    authorization: Secret | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Secret headers by name, the proxy, and whom TLS trusts (``None``: nobody, it is not used)."""

    headers: tuple[tuple[str, Secret], ...] = ()
    proxy: Proxy | None = None
    tls: ssl.SSLContext | None = None


def read_access(endpoint: Endpoint, resolve: Callable[[str], str] = str) -> Access:
    """Return how ``endpoint`` is reached; ``resolve`` makes a path of the job file absolute.

    Raises:
        KeyStop: the variable of a secret header is not set, or holds what no header can carry.
        JobError: the CA file cannot be used, or the proxy that the environment names.

    """
    if endpoint.embedded:
        return Access()
    headers, proxy = read_secret_headers(endpoint), _find_proxy(endpoint)
    ca_file = None if endpoint.ca_file is None else resolve(endpoint.ca_file)
    if ca_file is not None or "https" in {_scheme(endpoint.url), proxy and _scheme(proxy.url)}:
        return Access(headers, proxy, _make_tls(ca_file))
    return Access(headers, proxy)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _make_tls(ca_file: str | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError:
            raise JobError(
                f"endpoint.ca_file: {ca_file} holds no certificate: name a file in PEM format"
            ) from None
        except OSError as error:
            raise JobError(
                f"endpoint.ca_file: {ca_file} cannot be read: {error.strerror}"
            ) from None
    return context


def _find_proxy(endpoint: Endpoint) -> Proxy | None:
    if endpoint.proxy is None:
        return None
    if endpoint.proxy != ENVIRONMENT:
        return Proxy(endpoint.proxy)
    target = urlsplit(endpoint.url)
    named = getproxies()
    url = named.get(target.scheme) or named.get("all")
    if not url or proxy_bypass(target.netloc):
        return None
    return _read_proxy(url, f"{target.scheme}_proxy".upper())


def _read_proxy(url: str, variable: str) -> Proxy:
    # The message names no part of the URL: it may hold a password.
    refusal = JobError(
        f"endpoint.proxy: environment: the proxy in {variable} (or ALL_PROXY) must be"
        " http(s)://host:port, with user:password@ before the host if it asks for them"
    )
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        raise refusal from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise refusal
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = Secret(f"Basic {base64.b64encode(pair.encode()).decode()}")
    return Proxy(f"{parts.scheme}://{host}{port}", authorization)
