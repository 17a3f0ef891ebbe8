"""Real servers and proxies on the loopback interface, and certificates that nobody else trusts."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Heard", "make_authority", "read_headers", "serve_http", "serve_proxy"]


@dataclass(slots=True)
class Heard:
    """A server's port and the heads of the requests that it got."""

    port: int = 0
    heads: list[str] = field(default_factory=list)


def read_headers(head: str) -> dict[str, str]:
    """Return the headers of a request's head, by name in lower case."""
    lines = head.split("\r\n")[1:]
    pairs = (line.split(": ", 1) for line in lines if line)
    return {name.lower(): value for name, value in pairs}


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _listen(handle: Handler, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Serve on a free port; at the end wait until every connection is closed."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            await handle(reader, writer)
        await _close(writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(10):
            await asyncio.gather(*(task for task in tasks if task is not None))


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def serve_http(
    reply: bytes = b"{}", *, headers: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Heard]:
    """Answer every request with ``reply``."""
    heard = Heard()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            heard.heads.append(head)
            await reader.readexactly(int(read_headers(head).get("content-length", 0)))
            size = f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply)}\r\n{headers}\r\n"
            writer.write(size.encode() + reply)
            await writer.drain()

    async with _listen(answer, tls) as heard.port:
        yield heard


@contextlib.asynccontextmanager
async def serve_proxy(
    authorization: str | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Heard]:
    """Forward absolute requests and open tunnels, for those who show ``authorization``."""
    heard = Heard()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heard.heads.append(head)
        if read_headers(head).get("proxy-authorization") == authorization:
            await _pass_on(head, reader, writer)
        else:
            await reader.readexactly(int(read_headers(head).get("content-length", 0)))
            writer.write(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()

    async with _listen(answer, tls) as heard.port:
        yield heard


async def _pass_on(head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Open the way that the request asks for, and copy both directions until either ends."""
    method, target, _ = head.split("\r\n", 1)[0].split(" ")
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    from_origin, to_origin = await asyncio.open_connection(parts.hostname, parts.port)
    if method == "CONNECT":
        writer.write(b"HTTP/1.1 200 Open\r\n\r\n")
    else:
        to_origin.write(head.replace(target, parts.path, 1).encode())
    # The second request of a kept connection goes on as it is: servers take absolute targets.
    await asyncio.gather(_copy(reader, to_origin), _copy(from_origin, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    await _close(writer)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA by its certificate file, and a server context with a certificate for 127.0.0.1."""

    ca_file: Path
    server: ssl.SSLContext


def make_authority(folder: Path) -> Authority:
    """Make a CA and a server certificate that it signed."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA of this test")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    ca = _begin(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(True, 0), True)
    ca = ca.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False
    ).add_extension(_allow_signing(), True)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    leaf = _begin(name, ca_name, key).add_extension(x509.SubjectAlternativeName([address]), False)
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
    )
    pem = serialization.Encoding.PEM
    ca_file, chain = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(secret + leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    return Authority(ca_file, server)


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - day, now + day
    )


def _allow_signing() -> x509.KeyUsage:
    off = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
        **off,
    )
