"""What every test may use: the real tables where they are, nothing of the user's environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import run_redis

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
