"""Words, stop words and the guess at a query's language."""

from __future__ import annotations

import pytest

from rerank_jobs.endpoint.languages import ENGLISH, OTHER_SCRIPT, detect_language, is_stop_word
from rerank_jobs.endpoint.text import MAX_WORD_CHARS, count_marks, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("...", []),
        (
            "iPhone XMLHttpRequest snake_case DDR4",
            ["i", "phone", "xml", "http", "request", "snake", "case", "ddr4"],
        ),
        ("Größe naïve", ["größe", "naïve"]),
        ("\uff26\uff55\uff4c\uff4c \u2460", ["full", "1"]),
        ("中文a测试字", ["中文", "a", "测试", "试字"]),
        ("字", ["字"]),
        ("ราคา", ["ราค", "าคา"]),
        ("प्रश्न में", ["प्रश्न", "में"]),
    ],
)
def test_words_of_every_script(text: str, words: list[str]) -> None:
    """Words are folded and lower-cased; runs without spaces become overlapping pieces."""
    assert split_words(text) == words


@pytest.mark.parametrize("letter", ["x", "é"])
def test_endless_words_are_cut(letter: str) -> None:
    """No word is longer than the limit, and no character is lost by the cut."""
    words = split_words(letter * 1000)
    assert max(map(len, words)) == MAX_WORD_CHARS
    assert "".join(words) == letter * 1000


def test_marks_are_counted() -> None:
    """Punctuation and symbols count, letters, their combining marks and white space do not."""
    assert count_marks("a, b_c!\n") == 3
    assert count_marks("é, में 😀") == 2


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("usb speaker", ENGLISH),
        ("la confidential", ENGLISH),
        ("who was in the war", ENGLISH),
        ("Welche Farbe hat der Himmel?", "de"),
        ("¿Cuál es la capital de Francia?", "es"),
        ("Türkiye'nin başkenti neresidir?", "tr"),
        ("столица России", OTHER_SCRIPT),
        ("天空是什么颜色", OTHER_SCRIPT),
        ("", ENGLISH),
    ],
)
def test_language_of_a_query(query: str, language: str) -> None:
    """English is assumed unless stop words or letters say otherwise."""
    assert detect_language(split_words(query)) == language


def test_stop_words_belong_to_a_language() -> None:
    """The same letters may be a stop word here and a topic there."""
    assert is_stop_word("war", "de")
    assert not is_stop_word("war")
    assert is_stop_word("什么", OTHER_SCRIPT)
    assert not is_stop_word("电脑", OTHER_SCRIPT)
