"""What every test may use: the real tables where they are, nothing of the user's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real tables with judgements; tests that need it skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real tables (../shared/data) are not on this machine")
    return folder


@pytest.fixture(autouse=True)
def _no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a key in the developer's environment from reaching any test."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
