"""Windows of random texts in many scripts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.plan.tokens import (
    MAX_WEIGHT,
    RESTART_WEIGHT,
    bound_tokens,
    cumulative_weights,
    estimate_text,
    estimate_tokens,
)
from rerank_jobs.plan.windows import MIN_LIMIT, cut_windows, truncate, window_spans

_ALPHABETS = [
    "abcdefg ABC.,\n",
    "etaoinshrdlu ",
    "aB3xZ9",
    "0123456789abcdef",
    "日本語のテキスト。、 ",
    "กขคงาิี่ ",
    "हिन्दीमेंलिखा ।",
    "приветмир ",
    "e\u0301a\u0308 o\u0302",
    "가나다라\u1112\u1161\u11ab ",
    "👩\u200d🚀🙂👍🏽\ufe0f ",
    "čšžáéů ABab1",
    " \t\n\u3000",
]
_piece = st.sampled_from(_ALPHABETS).flatmap(
    lambda alphabet: st.text(st.sampled_from(alphabet), max_size=60)
)
_utf8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_texts = st.lists(st.tuples(st.one_of(_piece, _utf8), st.integers(1, 12)), max_size=8).map(
    lambda parts: "".join(piece * times for piece, times in parts)
)
_limits = st.integers(MIN_LIMIT, 300)


@given(_texts, _limits, st.integers(0, 100))
def test_windows_fit_and_cover(text: str, limit: int, overlap: int) -> None:
    """Each window fits by the estimate, and together they hold all that is not white space."""
    spans = window_spans(text, limit, overlap)
    windows = cut_windows(text, limit, overlap)
    assert windows == [text[first:last] for first, last in spans]
    assert all(estimate_text(window) <= limit for window in windows)
    if estimate_text(text) <= limit:
        assert windows == [text]
    elif not text.isspace():
        assert not any(window.isspace() for window in windows)
    covered = 0
    for first, last in spans:
        assert first < last or not text
        assert not text[covered:first].strip()
        covered = last
    assert not text[covered:].strip() or text.isspace()


@given(_texts, st.integers(64, 300), st.integers(0, 16))
def test_windows_overlap_and_are_alike(text: str, limit: int, overlap: int) -> None:
    """Neighbours share the overlap up to a snap at either end, and no window is a tiny rest."""
    spans = window_spans(text, limit, overlap)
    sums = cumulative_weights(text)
    if len(spans) == 1 or any(b[0] > a[1] for a, b in pairwise(spans)):
        return  # one window, or windows of white space were left out
    snaps = 2 * min(1600, (limit * 100) // 8) + 2 * MAX_WEIGHT
    for (_, last), (first, _) in pairwise(spans):
        shared = int(sums[last] - sums[first])
        assert overlap * 100 - MAX_WEIGHT <= shared <= overlap * 100 + snaps + 100
    sizes = [int(sums[last] - sums[first]) for first, last in spans]
    assert max(sizes) - min(sizes) <= snaps + 100 or text[slice(*spans[0])].isspace()


@given(_texts, _limits)
def test_truncation_is_a_fitting_beginning(text: str, limit: int) -> None:
    """What is kept fits and begins the text, but for blanks; a text that fits is kept whole."""
    head = truncate(text, limit)
    assert estimate_text(head) <= limit
    assert text.startswith(head) or text.lstrip().startswith(head)
    assert (head == text) == (estimate_text(text) <= limit)
    assert head.strip() or not text.strip()


@given(st.lists(_texts, max_size=6))
def test_arrays_are_estimated_like_single_texts(texts: list[str]) -> None:
    """A batch gives each text the tokens that it has alone, never above the bound."""
    array = pa.array(texts, pa.string())
    estimates = estimate_tokens(array)
    assert estimates.tolist() == [estimate_text(text) for text in texts]
    assert (estimates <= bound_tokens(array)).all()


@given(_texts, st.data())
def test_a_part_weighs_about_the_difference(text: str, data: st.DataObject) -> None:
    """A part weighs the difference of its ends; at most a word's restart more, inside a word."""
    first = data.draw(st.integers(0, len(text)))
    last = data.draw(st.integers(first, len(text)))
    sums = cumulative_weights(text)
    part = cumulative_weights(text[first:last])
    assert len(sums) == len(text) + 1
    assert part[-1] <= sums[last] - sums[first] + RESTART_WEIGHT
    assert (np.diff(sums) > 0).all()
    assert (cumulative_weights(text[:last]) == sums[: last + 1]).all()
