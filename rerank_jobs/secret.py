"""Secrets in memory: shown by nothing, written by nothing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from rerank_jobs.errors import KeyStop

__all__ = ["HeldKey", "Secret", "check_key", "read_header_secret", "read_password", "read_secret"]

_KEY_SHAPE = re.compile(r"[!-~]+")
_HEADER_SHAPE = re.compile(r"[ -~]+")


class Secret:
    """A secret that no ``repr``, ``str``, pickle or traceback shows; ``reveal()`` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Hold ``value``, which must not be blank."""
        if not value.strip():
            raise ValueError("a secret must not be blank")
        self._value = value.strip()

    def reveal(self) -> str:
        """Return the secret itself: only for the header that carries it."""
        return self._value

    def __repr__(self) -> str:
        """Show nothing."""
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuse to be pickled: a secret must not reach XCom or a state file."""
        raise TypeError("a Secret cannot be pickled")


@dataclass(frozen=True, slots=True)
class HeldKey:
    """An API key that was read elsewhere than from the environment; ``None`` if there is none.

    ``place`` names where it stands, for messages: ``the connection openrouter_default``.
    """

    place: str
    key: Secret | None


def check_key(value: str, place: str) -> Secret | None:
    """Return a key that an HTTP header can carry, ``None`` for a blank value.

    Raises:
        KeyStop: it holds what no header can carry; ``place`` is named, the value is not.

    """
    value = value.strip()
    if value and not _KEY_SHAPE.fullmatch(value):
        raise KeyStop(
            f"{place} holds characters that no API key has (a blank, a line break, a letter"
            " outside ASCII): copy the key again"
        )
    return Secret(value) if value else None


def read_header_secret(variable: str, header: str) -> Secret:
    """Return the value of a secret header from an environment variable.

    Raises:
        KeyStop: the variable is not set, or holds what no header can carry.

    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise KeyStop(
            f"no value for the header {header}: set the environment variable {variable}"
            " (endpoint.secret_headers names it) and run again"
        )
    if not _HEADER_SHAPE.fullmatch(value):
        raise KeyStop(
            f"the environment variable {variable} holds characters that the header {header} cannot"
            " carry (a line break, a letter outside ASCII): set it again"
        )
    return Secret(value)


def read_password(variable: str) -> Secret:
    """Return the password of the store of a shared limit from an environment variable.

    Raises:
        KeyStop: the variable is not set.

    """
    value = os.environ.get(variable, "")
    if not value.strip():
        raise KeyStop(
            f"no password for endpoint.limit_store: set the environment variable {variable}"
            " (endpoint.limit_store_password_env names it) and run again"
        )
    return Secret(value)


def read_secret(
    variable: str, url: str, *, held: HeldKey | None = None, needed: bool = True
) -> Secret | None:
    """Return the key in an environment variable, or the one that is ``held``, which comes first.

    A server on this machine may need none; without ``needed`` no server does.

    Raises:
        KeyStop: there is no key, or one that no header can carry.

    """
    if held is None:
        variable_place = f"the environment variable {variable}"
        key = check_key(os.environ.get(variable, ""), variable_place)
        advice = f"set {variable_place} (endpoint.api_key_env names it)"
    else:
        key, advice = held.key, f"put it into {held.place}"
    host = re.sub(r"^https?://([^/]*).*", r"\1", url)
    local = host.rsplit(":", 1)[0] in {"127.0.0.1", "localhost", "[::1]"}
    if key is None and needed and not local:
        raise KeyStop(f"no API key for {host}: {advice} and run again")
    return key
