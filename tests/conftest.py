"""What every test may use: the real tables where they are, nothing of the user's environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.redis_server import run_redis
from tests.s3_server import S3Server, serve_s3

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real tables with judgements; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real tables (../shared/data) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of a Redis server; tests that need it skip where there is none."""
    with run_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(autouse=True)
def _no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a key in the developer's environment from reaching any test."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)


@pytest.fixture(scope="session")
def _s3_process() -> Iterator[S3Server]:
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(_s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Return an S3 server without faults, to which the environment leads."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in _s3_process.env.items():
        monkeypatch.setenv(name, value)
    _s3_process.list_requests()
    return _s3_process


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """Return the location of an empty bucket of the test's own."""
    return s3.make_bucket(f"test-{uuid4().hex}")
