"""Cut documents that do not fit the model's context into overlapping windows."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, overload

import numpy as np

from rerank_jobs.plan.tokens import (
    MAX_WEIGHT,
    RESERVED,
    RESTART_WEIGHT,
    WEIGHT_UNIT,
    cumulative_weights,
    estimate_text,
)

if TYPE_CHECKING:
    from rerank_jobs.plan.tokens import IntArray

__all__ = [
    "MIN_LIMIT",
    "QUERY_CUT",
    "check_limit",
    "cut_head",
    "cut_windows",
    "passage_limit",
    "query_cut",
    "spread_windows",
    "truncate",
    "window_spans",
]

MIN_LIMIT = 16
"""Fewest tokens of a window: below, a cut could not respect words and characters."""

_SLACK = RESTART_WEIGHT + 2 * MAX_WEIGHT
"""What cutting between whole characters, and inside a word, can add to a window's weight."""

_REACH_TOKENS = 16
"""How far (tokens) an end of a window moves to meet a word's start."""

_STOPS = frozenset("。！？；，、：）」』】｡､।॥")  # noqa: RUF001
"""Punctuation after which a script without spaces is cut best."""

_JOINERS = frozenset("\u200c\u200d")
_VOWELS_BEHIND = frozenset("\u0e33\u0eb3")  # Thai and Lao AM: letters by category
_CLUSTER = 16
"""Most characters of a combining sequence that is kept whole."""


QUERY_CUT = 2048
"""Tokens after which the provider cuts a query (Cohere, best practices of reranking)."""


def query_cut(context_tokens: int) -> int:
    """Return after how many tokens the provider cuts a query, so what it counts at most.

    Half of the context from 4,096 tokens on (same source: 16,384 of 32,768). A smaller context
    is taken for the job's own choice, which does not move the provider's cut.
    """
    return max(QUERY_CUT, context_tokens // 2)


@overload
def passage_limit(context_tokens: int, query_tokens: int) -> int: ...
@overload
def passage_limit(context_tokens: int, query_tokens: IntArray) -> IntArray: ...
def passage_limit(context_tokens: int, query_tokens: int | IntArray) -> int | IntArray:
    """Return how many tokens of a passage the model sees beside its query.

    That is context - 3 - q, where a query takes half the context at most: 2,048 tokens of 4,096.
    """
    room = context_tokens - RESERVED
    if isinstance(query_tokens, int):
        return room - min(query_tokens, context_tokens // 2)
    return room - np.minimum(query_tokens, context_tokens // 2)


def cut_windows(text: str, limit_tokens: int, overlap_tokens: int) -> list[str]:
    """Return the windows of ``text`` that ``window_spans`` finds."""
    spans = window_spans(text, limit_tokens, overlap_tokens)
    return [text[first:last] for first, last in spans]


def window_spans(text: str, limit_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
    """Return [first, last) of each window, in order, each at most ``limit_tokens`` by the estimate.

    A text that fits is its own window. Otherwise windows are of about equal weight, begin and end
    between words where the script has spaces, overlap by ``overlap_tokens`` or a little more (at
    most half a window), and hold every character; only a window of nothing but white space, which
    an endpoint would refuse, is left out.

    Raises:
        ValueError: ``limit_tokens`` is below ``MIN_LIMIT``.

    """
    check_limit(limit_tokens)
    sums = cumulative_weights(text)
    if _fits(text, sums, limit_tokens):
        return [(0, len(text))]
    return spread_windows(text, sums, limit_tokens * WEIGHT_UNIT - _SLACK, overlap_tokens)


def spread_windows(
    text: str, sums: IntArray, room: int, overlap_tokens: int
) -> list[tuple[int, int]]:
    """Return [first, last) of windows of at most ``room`` by ``sums``; see ``window_spans``.

    ``sums`` are len(text) + 1 cumulative weights in ``WEIGHT_UNIT`` a token.
    """
    reach = min(_REACH_TOKENS * WEIGHT_UNIT, room // 8)
    room -= 2 * reach
    overlap = min(overlap_tokens * WEIGHT_UNIT, room // 2)
    total = int(sums[-1])
    count = -(-(total - overlap) // (room - overlap))
    size = -(-(total + (count - 1) * overlap) // count)
    spans = []
    for number in range(count):
        start = number * (size - overlap)
        first = int(np.searchsorted(sums, start, side="right")) - 1
        last = int(np.searchsorted(sums, min(start + size, total), side="left"))
        spans.append((_snap(text, sums, first, -1, reach), _snap(text, sums, last, 1, reach)))
    return [span for span in spans if not text[slice(*span)].isspace()] or spans[:1]


def truncate(text: str, limit_tokens: int) -> str:
    """Return a beginning of ``text`` that fits, as long as a cut between words allows.

    White space before the first word is left out where nothing else would fit.

    Raises:
        ValueError: ``limit_tokens`` is below ``MIN_LIMIT``.

    """
    check_limit(limit_tokens)
    sums = cumulative_weights(text)
    if _fits(text, sums, limit_tokens):
        return text
    head = cut_head(text, sums, limit_tokens)
    if head.isspace() and not text.isspace():
        return truncate(text.lstrip(), limit_tokens)
    return head


def cut_head(text: str, sums: IntArray, limit_tokens: int) -> str:
    """Return a beginning of at most ``limit_tokens`` by ``sums``, of whole words where it can."""
    last = int(np.searchsorted(sums, limit_tokens * WEIGHT_UNIT, side="right")) - 1
    reach = min(_REACH_TOKENS, limit_tokens // 8) * WEIGHT_UNIT
    return text[: _snap(text, sums, last, -1, reach)]


def check_limit(limit_tokens: int) -> None:
    """Raise ``ValueError`` for a limit below ``MIN_LIMIT``."""
    if limit_tokens < MIN_LIMIT:
        raise ValueError(f"a passage of {limit_tokens} tokens is too short (at least {MIN_LIMIT})")


def _fits(text: str, sums: IntArray, limit_tokens: int) -> bool:
    return int(sums[-1]) <= limit_tokens * WEIGHT_UNIT or estimate_text(text) <= limit_tokens


def _snap(text: str, sums: IntArray, index: int, step: int, reach: int) -> int:
    """Move a cut to the next start of a word in direction ``step``, at most ``reach`` in weight.

    Without one, to the next place that splits no combining sequence; without that, not at all.
    """
    whole = None
    at = index
    while 0 < at < len(text) and abs(int(sums[at] - sums[index])) <= reach:
        before, after = text[at - 1], text[at]
        if before in _STOPS or (before.isspace() and not after.isspace()):
            return at
        if whole is None and abs(at - index) <= _CLUSTER and not _joins(before, after):
            whole = at
        at += step
    if at in {0, len(text)} and abs(int(sums[at] - sums[index])) <= reach:
        return at
    return index if whole is None else whole


def _joins(before: str, after: str) -> bool:
    """Say whether a cut between two characters would split what is read as one."""
    return (
        unicodedata.category(after)[0] == "M"
        or after in _JOINERS
        or after in _VOWELS_BEHIND
        or before in _JOINERS
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or ("\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff")
        or "\u1160" <= after <= "\u11ff"  # Hangul vowels and finals
    )
