"""Windows of long documents."""

from __future__ import annotations

import pytest

from rerank_jobs.plan.tokens import estimate_text
from rerank_jobs.plan.windows import (
    QUERY_CUT,
    cut_windows,
    passage_limit,
    query_cut,
    truncate,
    window_spans,
)

WORDS = " ".join(f"word{number}" for number in range(6000))


@pytest.mark.parametrize(("query", "limit"), [(0, 4093), (100, 3993), (2048, 2045), (9000, 2045)])
def test_passage_limit_at_4096(query: int, limit: int) -> None:
    """A passage holds 4,093 tokens less the query's, which is cut at 2,048."""
    assert passage_limit(4096, query) == limit == 4093 - min(query, QUERY_CUT)


@pytest.mark.parametrize(("context", "query", "limit"), [(64, 500, 29), (32_768, 9000, 23_765)])
def test_passage_limit_at_other_contexts(context: int, query: int, limit: int) -> None:
    """In other contexts too a query takes at most half, so that a passage always has room."""
    assert passage_limit(context, query) == limit


@pytest.mark.parametrize(("context", "cut"), [(64, 2048), (4096, 2048), (32_768, 16_384)])
def test_a_query_counts_up_to_the_cut_of_its_provider(context: int, cut: int) -> None:
    """A query is cut at half the context, but not because a job makes do with a smaller one."""
    assert query_cut(context) == cut


def test_a_text_that_fits_is_its_own_window() -> None:
    """Nothing is cut from a text within the limit, not even blanks."""
    assert cut_windows(" short \n", 16, 4) == [" short \n"]
    assert cut_windows("", 16, 4) == [""]


def test_words_stay_whole() -> None:
    """In a script with spaces windows begin with a word and end after one."""
    spans = window_spans(WORDS, 1000, 100)
    assert len(spans) > 5
    for first, last in spans:
        assert first == 0 or (WORDS[first - 1] == " " and WORDS[first] != " ")
        assert last == len(WORDS) or WORDS[last - 1] == " "


def test_windows_use_the_limit() -> None:
    """Windows fill most of the limit, so that no more are paid than needed."""
    sizes = [estimate_text(window) for window in cut_windows(WORDS, 4000, 128)]
    assert max(sizes) <= 4000
    assert len(sizes) == -(-(estimate_text(WORDS) - 128) // (4000 - 128))


def test_no_tiny_last_window() -> None:
    """A text just over the limit becomes two windows of about half, not a whole and a rest."""
    text = "plain words " * 700
    sizes = [estimate_text(window) for window in cut_windows(text, estimate_text(text) - 1, 50)]
    assert len(sizes) == 2
    assert abs(sizes[0] - sizes[1]) < 40


def test_scripts_without_spaces_are_cut_after_punctuation() -> None:
    """Chinese text is cut behind a full stop where one is near."""
    text = "今天的天气很好我们去公园。" * 200
    for window in cut_windows(text, 500, 50):
        assert window.startswith("今")
        assert window.endswith("。")


@pytest.mark.parametrize("unit", ["e\u0301", "👩\u200d🚀", "👍🏽", "\u1112\u1161\u11ab", "กำ่"])
def test_combining_sequences_stay_whole(unit: str) -> None:
    """No window begins or ends inside a letter with marks, an emoji sequence or a syllable."""
    text = unit * 900
    windows = cut_windows(text, 100, 10)
    assert len(windows) > 2
    assert all(len(window) % len(unit) == 0 for window in windows)
    assert all(window.startswith(unit) for window in windows)
    assert len(truncate(text, 100)) % len(unit) == 0


def test_one_endless_word_is_cut_anywhere() -> None:
    """Text without any place to cut is still covered by windows within the limit."""
    spans = window_spans("a" * 20_000, 300, 20)
    assert spans[0][0] == 0
    assert spans[-1][1] == 20_000
    assert all(estimate_text("a" * (last - first)) <= 300 for first, last in spans)


def test_windows_of_blanks_are_not_sent() -> None:
    """A window of nothing but white space is left out; a blank text keeps one."""
    text = "first " + " " * 50_000 + "last"
    windows = cut_windows(text, 1000, 50)
    assert windows[0].startswith("first")
    assert windows[-1].endswith("last")
    assert all(window.strip() for window in windows)
    assert len(cut_windows("\n" * 50_000, 1000, 50)) == 1


def test_a_large_overlap_is_cut_to_half_a_window() -> None:
    """An overlap larger than a window does not make endless windows."""
    assert len(cut_windows("plain words " * 300, 64, 1024)) < 60


def test_truncation_keeps_words_and_skips_leading_blanks() -> None:
    """What is kept ends with a whole word, and is never blank."""
    head = truncate(WORDS, 100)
    assert WORDS.startswith(head)
    assert head.endswith(" ")
    assert 80 < estimate_text(head) <= 100
    assert truncate(" " * 9000 + "word", 100) == "word"


@pytest.mark.parametrize("cut", [lambda: cut_windows("a", 15, 0), lambda: truncate("a", 15)])
def test_tiny_limits_are_refused(cut: object) -> None:
    """Below 16 tokens nothing sensible can be cut."""
    assert callable(cut)
    with pytest.raises(ValueError, match="too short"):
        cut()
