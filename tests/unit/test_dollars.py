"""Amounts of money in messages."""

from __future__ import annotations

import pytest

from rerank_jobs.dollars import show_usd


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        (0.0, "$0.00"),
        (5.0, "$5.00"),
        (0.45, "$0.45"),
        (2.829, "$2.829"),
        (0.0122, "$0.0122"),
        (0.000021, "$0.000021"),
        (0.0000001, "$0.00"),
        (1234.5, "$1,234.50"),
        (-1.25, "-$1.25"),
        (-1e-9, "$0.00"),
    ],
)
def test_an_amount_has_the_digits_that_it_has(usd: float, shown: str) -> None:
    """Cents always, more only where there are more, nothing below a millionth, no minus zero."""
    assert show_usd(usd) == shown
