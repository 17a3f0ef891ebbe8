"""An API key in memory: shown by nothing, written by nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["Secret"]


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
