"""An API key in memory: shown by nothing, written by nothing."""

from __future__ import annotations

import os
import re
from typing import Any

from rerank_jobs.errors import KeyStop

__all__ = ["Secret", "read_secret"]

_KEY_SHAPE = re.compile(r"[!-~]+")


class Secret:
    """An API key that no ``repr``, ``str``, pickle or traceback shows; ``reveal()`` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Hold ``value``, which must not be blank."""
        if not value.strip():
            raise ValueError("a secret must not be blank")
        self._value = value.strip()

    def reveal(self) -> str:
        """Return the key itself: only for the Authorization header."""
        return self._value

    def __repr__(self) -> str:
        """Show nothing."""
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuse to be pickled: a key must not reach XCom or a state file."""
        raise TypeError("a Secret cannot be pickled")


def read_secret(variable: str, url: str) -> Secret | None:
    """Return the key in an environment variable; a server on this machine may need none.

    Raises:
        KeyStop: the variable is not set, or holds what no header can carry.

    """
    value = os.environ.get(variable, "").strip()
    if value and not _KEY_SHAPE.fullmatch(value):
        raise KeyStop(
            f"the environment variable {variable} holds characters that no API key has (a blank,"
            " a line break, a letter outside ASCII): copy the key again"
        )
    if value:
        return Secret(value)
    host = re.sub(r"^https?://([^/]*).*", r"\1", url)
    if host.rsplit(":", 1)[0] in {"127.0.0.1", "localhost", "[::1]"}:
        return None
    raise KeyStop(
        f"no API key for {host}: set the environment variable {variable}"
        " (endpoint.api_key_env names it) and run again"
    )
