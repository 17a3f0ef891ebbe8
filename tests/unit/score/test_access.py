"""Proxies, CAs, headers and their secrets, over real sockets on the loopback interface."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Endpoint, Secret
from rerank_jobs.errors import JobError, KeyStop
from rerank_jobs.score import DIALECTS, open_client, read_access
from rerank_jobs.score.exchange import Answer, Lost
from tests.unit.score.network import (
    Authority,
    Heard,
    make_authority,
    read_headers,
    serve_http,
    serve_proxy,
)

BODY = b'{"query":"q"}'
KEY = "sk-or-v1-canary-key"
TOKEN = "canary token/of a gateway"  # noqa: S105
USER, PASSWORD = "canaryuser", "canary:p@ss word"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
CREDENTIALS = "canaryuser:canary%3Ap%40ss%20word"
CANARIES = (KEY, TOKEN, USER, PASSWORD, BASIC, BASIC[6:], CREDENTIALS)
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep proxies of the developer's environment from the tests."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make a CA that nobody trusts unasked."""
    return make_authority(tmp_path_factory.mktemp("ca"))


async def send(url: str, sends: int = 1, **fields: Any) -> list[Answer | Lost]:
    """Return what comes back from ``sends`` requests to a new client."""
    endpoint = Endpoint(url=url, timeout_seconds=5, **fields)
    client = open_client(endpoint, Secret(KEY), access=read_access(endpoint))
    try:
        return [await client.send(BODY) for _ in range(sends)]
    finally:
        await client.aclose()


def status(answers: list[Answer | Lost]) -> list[int | Lost]:
    """Return each answer's status, or why there is none."""
    return [answer.status if isinstance(answer, Answer) else answer for answer in answers]


async def ask_origin(**fields: Any) -> str:
    """Send one request to a plain server; return its head as it came."""
    async with serve_http() as origin:
        assert status(await send(f"http://127.0.0.1:{origin.port}/v1", **fields)) == [200]
        return origin.heads[0]


def test_an_app_is_named_in_openrouters_headers() -> None:
    """Address, title (under both names) and categories go out; nothing where nothing is set."""
    app = {"url": "https://shop.example/?a=1", "title": "Shop & Co", "categories": ("a-b", "c")}
    sent = read_headers(asyncio.run(ask_origin(app=app)))
    assert sent["http-referer"] == "https://shop.example/?a=1"
    assert sent["x-openrouter-title"] == sent["x-title"] == "Shop & Co"
    assert sent["x-openrouter-categories"] == "a-b,c"
    silent = read_headers(asyncio.run(ask_origin()))
    assert not {"http-referer", "x-title", "x-openrouter-title"} & set(silent)


def test_headers_of_the_job_and_its_secrets_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come on top of ours, once each, and replace ours of the same name."""
    monkeypatch.setenv("GATEWAY_TOKEN", f" {TOKEN}\n")
    head = asyncio.run(
        ask_origin(
            headers={"X-Team": "search, ads", "user-agent": "shop/1"},
            secret_headers={"X-Gateway": "GATEWAY_TOKEN"},
        )
    )
    sent = read_headers(head)
    assert (sent["x-team"], sent["user-agent"], sent["x-gateway"]) == (
        "search, ads",
        "shop/1",
        TOKEN,
    )
    assert head.lower().count("user-agent") == 1
    assert sent["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", [None, " ", "a\nb", "ключ"])
def test_a_secret_header_without_a_value_stops_before_the_loop(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names variable and header, and shows no value."""
    monkeypatch.delenv("GATEWAY_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("GATEWAY_TOKEN", value)
    endpoint = Endpoint(url="https://h.example", secret_headers={"X-Gateway": "GATEWAY_TOKEN"})
    with pytest.raises(KeyStop, match="GATEWAY_TOKEN") as caught:
        read_access(endpoint)
    assert "X-Gateway" in str(caught.value)
    assert not value or value.isspace() or value not in str(caught.value)


def test_the_model_in_a_path_keeps_its_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A colon and a slash of the model reach the server percent-encoded, as Bedrock asks for."""
    there = dataclasses.replace(DIALECTS["openrouter"], path="/model/{model}/invoke")
    monkeypatch.setitem(DIALECTS, "openrouter", there)
    for model, target in (
        ("cohere.rerank-v3-5:0", "/v1/model/cohere.rerank-v3-5%3A0/invoke"),
        ("arn:aws:a/b c?d#e%f", "/v1/model/arn%3Aaws%3Aa%2Fb%20c%3Fd%23e%25f/invoke"),
    ):
        head = asyncio.run(ask_origin(model=model))
        assert head.split("\r\n", 1)[0] == f"POST {target} HTTP/1.1"


def test_a_server_of_an_own_ca_is_trusted_only_with_its_file(authority: Authority) -> None:
    """With ``ca_file`` TLS succeeds, without it nothing is sent."""

    async def main(**fields: Any) -> tuple[list[int | Lost], int]:
        async with serve_http(tls=authority.server) as origin:
            answers = await send(f"https://127.0.0.1:{origin.port}/v1", **fields)
            return status(answers), len(origin.heads)

    assert asyncio.run(main(ca_file=str(authority.ca_file))) == ([200], 1)
    assert asyncio.run(main()) == ([Lost("TLS failed", reached=False)], 0)


def test_an_own_ca_is_added_to_the_usual_roots(authority: Authority) -> None:
    """Naming a CA does not make public servers untrusted."""
    tls = read_access(Endpoint(url="https://h.example", ca_file=str(authority.ca_file))).tls
    usual = read_access(Endpoint(url="https://h.example")).tls
    assert tls is not None
    assert usual is not None
    assert len(tls.get_ca_certs()) == len(usual.get_ca_certs()) + 1 > 50


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder"])
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path, kind: str) -> None:
    """The line names key and file, resolved against the job file's folder."""
    path = tmp_path / "ca.pem"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text({"empty": "", "text": "no certificate"}[kind], encoding="utf-8")
    endpoint = Endpoint(url="https://h.example", ca_file="ca.pem")
    with pytest.raises(JobError, match=r"endpoint\.ca_file: ") as caught:
        read_access(endpoint, lambda name: str(tmp_path / name))
    assert str(path) in str(caught.value)


Environment = Callable[[int], dict[str, str]]


async def ask_by_proxy(
    scheme: str,
    authority: Authority,
    authorization: str | None,
    fields: Callable[[int], dict[str, Any]],
    *,
    tls_to_proxy: bool = False,
) -> tuple[list[int | Lost], Heard, Heard]:
    """Send two requests to a server, with a proxy beside it; return who heard what."""
    async with (
        serve_http(tls=authority.server if scheme == "https" else None) as origin,
        serve_proxy(authorization, tls=authority.server if tls_to_proxy else None) as proxy,
    ):
        url = f"{scheme}://127.0.0.1:{origin.port}/v1"
        answers = await send(url, sends=2, ca_file=str(authority.ca_file), **fields(proxy.port))
        return status(answers), origin, proxy


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("tls_to_proxy", [False, True])
def test_a_proxy_of_the_job_is_used(scheme: str, tls_to_proxy: bool, authority: Authority) -> None:
    """A plain request goes through it, an encrypted one through a tunnel that hides it."""
    way = "https" if tls_to_proxy else "http"

    def fields(port: int) -> dict[str, Any]:
        return {"proxy": f"{way}://127.0.0.1:{port}"}

    answers, origin, proxy = asyncio.run(
        ask_by_proxy(scheme, authority, None, fields, tls_to_proxy=tls_to_proxy)
    )
    assert answers == [200, 200]
    target = f"127.0.0.1:{origin.port}"
    if scheme == "https":
        assert [head.split(" HTTP", 1)[0] for head in proxy.heads] == [f"CONNECT {target}"]
        assert KEY not in proxy.heads[0]
    else:
        assert proxy.heads[0].startswith(f"POST http://{target}/v1/rerank HTTP/1.1")
    assert origin.heads[0].startswith("POST /v1/rerank HTTP/1.1")
    assert len(origin.heads) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("variable", ["own", "lower", "all"])
def test_a_proxy_of_the_environment_is_used_with_its_credentials(
    scheme: str, variable: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``environment`` reads the scheme's variable, or ALL_PROXY; user and password are shown."""
    name = {"own": f"{scheme}_proxy".upper(), "lower": f"{scheme}_proxy", "all": "ALL_PROXY"}

    def fields(port: int) -> dict[str, Any]:
        monkeypatch.setenv(name[variable], f"http://{CREDENTIALS}@127.0.0.1:{port}")
        return {"proxy": "environment"}

    answers, origin, proxy = asyncio.run(ask_by_proxy(scheme, authority, BASIC, fields))
    assert answers == [200, 200]
    assert {read_headers(head)["proxy-authorization"] for head in proxy.heads} == {BASIC}
    if scheme == "https":
        assert not any("proxy-authorization" in head.lower() for head in origin.heads)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_has_charged_nothing(
    scheme: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """407 comes from the proxy: the endpoint saw nothing."""

    def fields(port: int) -> dict[str, Any]:
        monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{port}")
        return {"proxy": "environment"}

    answers, origin, proxy = asyncio.run(ask_by_proxy(scheme, authority, BASIC, fields))
    assert answers == [Lost("the proxy refused", reached=False)] * 2
    assert not origin.heads
    assert proxy.heads


@pytest.mark.parametrize("named", [True, False])
def test_no_proxy_is_used_unless_named_and_for_exempt_hosts(
    named: bool, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the key the environment means nothing; with it NO_PROXY is obeyed."""

    def fields(port: int) -> dict[str, Any]:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        if named:
            monkeypatch.setenv("NO_PROXY", "example.com,127.0.0.1")
        return {"proxy": "environment"} if named else {}

    answers, _, proxy = asyncio.run(ask_by_proxy("http", authority, None, fields))
    assert answers == [200, 200]
    assert not proxy.heads


@pytest.mark.parametrize(
    "url", ["socks5://canaryuser@h:1", "http://h:99999", "http://canaryuser:x@:1", "http://[::1"]
)
def test_a_proxy_that_cannot_be_used_is_refused_without_showing_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the variable, never what may hold a password."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(JobError, match="HTTPS_PROXY") as caught:
        read_access(Endpoint(url="https://h.example", proxy="environment"))
    assert "canary" not in str(caught.value)


def test_nobody_at_the_proxy_is_no_connection() -> None:
    """A proxy that is down is an outage that charged nothing."""
    answers = asyncio.run(send("http://127.0.0.1:9/v1", proxy="http://127.0.0.1:9"))
    assert status(answers) == [Lost("no connection", reached=False)]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("accepted", [True, False])
def test_no_secret_of_the_way_is_shown(
    scheme: str,
    accepted: bool,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Keys, tokens and proxy passwords are in no repr and in no log at DEBUG, of no library."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GATEWAY_TOKEN", TOKEN)
    shown: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        async with (
            serve_http(tls=authority.server if scheme == "https" else None) as origin,
            serve_proxy(BASIC if accepted else "other") as proxy,
        ):
            monkeypatch.setenv("ALL_PROXY", f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}")
            endpoint = Endpoint(
                url=f"{scheme}://127.0.0.1:{origin.port}/v1",
                ca_file=str(authority.ca_file),
                proxy="environment",
                secret_headers={"X-Gateway": "GATEWAY_TOKEN"},
            )
            access = read_access(endpoint)
            client = open_client(endpoint, Secret(KEY), access=access)
            answer = await client.send(BODY)
            assert isinstance(answer, Answer) is accepted
            held = vars(client)["_way"]
            values = (
                endpoint,
                access,
                client,
                answer,
                vars(client),
                vars(held),
                vars(held)["_session"],
            )
            shown.extend(f"{value!r} {value!s}" for value in values)
            await client.aclose()

    asyncio.run(main())
    text = "\n".join(shown) + caplog.text + "".join(capfd.readouterr())
    assert not [canary for canary in CANARIES if canary in text]
