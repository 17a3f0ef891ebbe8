"""Text to words, the same on every machine. Pure."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["MAX_WORD_CHARS", "count_marks", "is_piece", "split_words"]

MAX_WORD_CHARS = 64
"""Longer runs of letters (base64, hashes) are cut into pieces of this size."""

_ALPHABETIC_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
_IDEOGRAPHIC = (
    "\u3040-\u30ff"  # kana
    "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\uac00-\ud7af"  # Hangul
)


def _list_combining_marks() -> str:
    """Return the marks that a word class leaves out (Devanagari vowels, Arabic points)."""
    marks = (chr(code) for code in range(0x300, 0xFE30) if not 0xD800 <= code < 0xE000)
    return "".join(mark for mark in marks if unicodedata.category(mark) in {"Mn", "Mc"})


_ASCII_WORD = re.compile(rf"[a-z0-9]{{1,{MAX_WORD_CHARS}}}")
_RUN = re.compile(
    rf"([{_ALPHABETIC_UNSPACED}]+)|([{_IDEOGRAPHIC}]+)"
    rf"|((?:[^\W_{_ALPHABETIC_UNSPACED}{_IDEOGRAPHIC}]|[{_list_combining_marks()}])"
    rf"{{1,{MAX_WORD_CHARS}}})"
)
_PIECE = re.compile(rf"[{_ALPHABETIC_UNSPACED}{_IDEOGRAPHIC}]")
_CAMEL_HUMP = re.compile(r"[A-Z](?:(?<=[a-z][A-Z])|(?<=[A-Z][A-Z])(?=[a-z]))")
_ASCII_MARK = re.compile(r"[!-/:-@\[-`{-~]")
_MARK = re.compile(rf"[^\w\s{_list_combining_marks()}]|_")


def split_words(text: str) -> list[str]:
    """Return the lower-cased words of a text in order; any text has a (maybe empty) list.

    Compatibility forms are folded (NFKC); camelCase and snake_case are split. Runs of scripts that
    set no spaces become overlapping pieces: three characters of Thai, Lao, Myanmar and Khmer, two
    of Han, kana and Hangul.
    """
    if text.isascii():
        return _ASCII_WORD.findall(_split_camel(text).lower())
    folded = _split_camel(unicodedata.normalize("NFKC", text)).lower()
    words: list[str] = []
    for alphabetic, ideographic, word in _RUN.findall(folded):
        if word:
            words.append(word)
        elif alphabetic:
            words.extend(_cut_pieces(alphabetic, 3))
        else:
            words.extend(_cut_pieces(ideographic, 2))
    return words


def is_piece(word: str) -> bool:
    """Say whether a word of ``split_words`` is a piece of a run that sets no spaces."""
    return _PIECE.match(word) is not None


def count_marks(text: str) -> int:
    """Return how many characters are neither part of a word nor white space."""
    return len((_ASCII_MARK if text.isascii() else _MARK).findall(text))


def _split_camel(text: str) -> str:
    return _CAMEL_HUMP.sub(r" \g<0>", text)


def _cut_pieces(run: str, size: int) -> list[str]:
    return [run[start : start + size] for start in range(max(1, len(run) - size + 1))]
