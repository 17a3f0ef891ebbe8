"""Dollars as people read them."""

from __future__ import annotations

__all__ = ["show_usd"]


def show_usd(usd: float) -> str:
    """Return an amount to the millionth, without idle zeros but always with cents: ``$0.0122``."""
    whole, _, digits = f"{abs(usd):,.6f}".partition(".")
    sign = "-" if round(usd, 6) < 0 else ""
    return f"{sign}${whole}.{digits.rstrip('0').ljust(2, '0')}"
