"""Search units as the API counts them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

__all__ = ["CHUNKS_PER_UNIT", "TOKENS_PER_CHUNK", "Reading", "count_chunks", "count_units"]

TOKENS_PER_CHUNK = 500
"""A document of more tokens, the query included, counts once per 500 (Cohere's pricing)."""

CHUNKS_PER_UNIT = 100
"""One search unit is one query with up to 100 chunks (Cohere's pricing)."""


class Reading(StrEnum):
    """The two readings of "500 tokens including the length of the query"."""

    QUERY_ONCE = "I1"
    """ceil((q + d) / 500): the query is part of the document's length once."""

    QUERY_PER_CHUNK = "I2"
    """ceil(d / (500 - q)): each chunk carries the query."""


def count_chunks(
    query_tokens: int, document_tokens: int, reading: Reading = Reading.QUERY_ONCE
) -> int:
    """Return the billing chunks (>= 1) of one document under ``reading``; all sizes in tokens.

    Under I2 a query that fills a chunk alone leaves one token of room for the document.
    """
    if query_tokens + document_tokens <= TOKENS_PER_CHUNK:
        return 1
    if reading is Reading.QUERY_ONCE:
        return _ceil_div(query_tokens + document_tokens, TOKENS_PER_CHUNK)
    return max(1, _ceil_div(document_tokens, max(1, TOKENS_PER_CHUNK - query_tokens)))


def count_units(
    query_tokens: int, document_tokens: Iterable[int], reading: Reading = Reading.QUERY_ONCE
) -> int:
    """Return the search units of one request: ceil(chunks / 100), 0 without documents."""
    chunks = sum(count_chunks(query_tokens, tokens, reading) for tokens in document_tokens)
    return _ceil_div(chunks, CHUNKS_PER_UNIT)


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
