"""Fixtures of the embedded endpoint's tests: one scorer, the API's contract, a client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from rerank_jobs.endpoint.app import create_app
from rerank_jobs.endpoint.instant import InstantScorer
from rerank_jobs.endpoint.scorer import EmbeddedScorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.applications import Starlette

CONTRACT = "openrouter-rerank.openapi.yaml"
RERANK = "/api/v1/rerank"
BODY = {"model": "cohere/rerank-v3.5", "query": "usb speaker", "documents": ["a", "b c", "d"]}


class Send(Protocol):
    """Sends one request to an app, without a port."""

    def __call__(self, app: Starlette, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the reply; ``options`` are httpx's."""


@pytest.fixture(scope="session")
def embedded_scorer() -> EmbeddedScorer:
    """Return one scorer for the session: its caches are worth sharing."""
    return EmbeddedScorer.load()


@pytest.fixture
def app() -> Starlette:
    """Return an app whose scores cost nothing."""
    return create_app(scorer=InstantScorer())


@pytest.fixture
def send() -> Send:
    """Return a function that sends one request through the ASGI transport."""

    def send_one(app: Starlette, method: str, path: str, **options: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    return send_one


@pytest.fixture(scope="session")
def assert_valid() -> Callable[[httpx.Response, str, str], None]:
    """Return a check of a reply against the API's contract; skips where that is absent."""
    path = Path(__file__).parents[4] / "shared" / "api" / CONTRACT
    if not path.is_file():
        pytest.skip(f"{CONTRACT} is not beside the repository")
    contract = yaml.safe_load(path.read_text(encoding="utf-8"))
    registry = Registry().with_resource("urn:api", DRAFT202012.create_resource(contract))

    def check(reply: httpx.Response, api_path: str, method: str) -> None:
        """Fail unless the status is declared for the path and the body has its schema."""
        declared = contract["paths"][api_path][method]["responses"]
        assert str(reply.status_code) in declared
        pointer = "/".join(
            part.replace("~", "~0").replace("/", "~1")
            for part in (
                "paths",
                api_path,
                method,
                "responses",
                str(reply.status_code),
                "content",
                "application/json",
                "schema",
            )
        )
        assert reply.headers["content-type"] == "application/json"
        schema = {"$ref": f"urn:api#/{pointer}"}
        Draft202012Validator(schema, registry=registry).validate(reply.json())

    return check
