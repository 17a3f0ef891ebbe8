"""Bound and estimate token counts without a tokenizer, at memory speed.

The API does not document its tokenizer. In a unigram vocabulary a token is at least one character
of the NFC form: a hard bound. The estimate weighs each character by its script and its place in its
word: a short common word is one token, while long words, runs of letters and digits, and rare
scripts fall apart. The weights were fitted to counts of a multilingual unigram vocabulary of
250,000 pieces (XLM-R) and enlarged by a margin, because a provider cuts silently what was
underestimated. They are whole hundredths of a token, so that sums are exact however a table is cut
into batches.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator

    TextArray = pa.Array[Any] | pa.ChunkedArray[Any]

__all__ = [
    "MAX_WEIGHT",
    "RESERVED",
    "RESTART_WEIGHT",
    "WEIGHT_UNIT",
    "bound_tokens",
    "cumulative_weights",
    "estimate_text",
    "estimate_tokens",
]

RESERVED = 3
"""Tokens of each (query, passage) pair that the model keeps for itself (Cohere, best practices)."""

WEIGHT_UNIT = 100
"""Weight of one token in ``cumulative_weights``."""

MAX_WEIGHT = 160
"""Largest weight of one character."""

RESTART_WEIGHT = 200
"""What a part that begins inside a word can weigh above the difference of its ends."""

IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 16
"""UTF-8 bytes weighed at once: the work arrays of a block stay in the processor's cache."""

_PLACES = 16
"""Places in a word that weigh differently; later characters weigh as the last one."""

_LONG_RUN = 24
"""Letters and digits without a break after which all weigh as the last place (base64, hex)."""

_SPACE, _PUNCT, _BAR, _OTHER, _FLAT, _THAI, _HAN, _KANA, _HANGUL = range(9)
_LOWER, _UPPER, _DIGIT, _LATIN, _CYRILLIC, _GREEK, _ARABIC, _HEBREW, _INDIC, _MARK = range(9, 19)
_CLASSES = 19
_FIRST_WORD = _LOWER
"""From this class on, characters form words and weigh by their place; before, each stands alone."""

_WEIGHTS: dict[int, tuple[int, ...]] = {
    # From place 0, 1, 2, 4, 7, 11 and 15 on; the last one given holds for the places after it.
    _SPACE: (10,),
    _PUNCT: (95,),
    _BAR: (160,),
    _OTHER: (100,),
    _FLAT: (50,),
    _THAI: (36,),
    _HAN: (92,),
    _KANA: (78,),
    _HANGUL: (70,),
    _LOWER: (114, 2, 2, 11, 26, 35, 72),
    _UPPER: (125, 42, 32, 32, 45, 50, 84),
    _DIGIT: (90, 38, 45, 45, 45, 45, 55),
    _LATIN: (90, 28, 32, 70),
    _CYRILLIC: (85, 10, 10, 38, 28, 40, 60),
    _GREEK: (85, 10, 28, 40, 40, 40, 60),
    _ARABIC: (88, 15, 38, 35, 55, 60),
    _HEBREW: (90, 40, 33, 40, 55, 60),
    _INDIC: (80, 20, 38, 28, 35, 50, 60),
    _MARK: (10,),
}
_WEIGHT_PLACES = (0, 1, 2, 4, 7, 11, 15)

_RANGES = (
    # Last assignment wins. What is not named here weighs one token: emoji, rare scripts, symbols.
    (0x0000, 0x007F, _PUNCT),
    (0x0009, 0x000D, _SPACE),
    (0x0020, 0x0020, _SPACE),
    (0x0030, 0x0039, _DIGIT),
    (0x0041, 0x005A, _UPPER),
    (0x0061, 0x007A, _LOWER),
    (0x007C, 0x007C, _BAR),
    (0x0085, 0x0085, _SPACE),
    (0x00A0, 0x00A0, _SPACE),
    (0x00C0, 0x024F, _LATIN),
    (0x00D7, 0x00D7, _OTHER),
    (0x00F7, 0x00F7, _OTHER),
    (0x0300, 0x036F, _MARK),
    (0x0370, 0x03FF, _GREEK),
    (0x0400, 0x052F, _CYRILLIC),
    (0x0531, 0x058A, _FLAT),  # Armenian
    (0x0590, 0x05FF, _HEBREW),
    (0x0600, 0x06FF, _ARABIC),
    (0x0750, 0x077F, _ARABIC),
    (0x0900, 0x0BFF, _INDIC),
    (0x0C00, 0x0DFF, _FLAT),  # Telugu, Kannada, Malayalam, Sinhala
    (0x0E00, 0x0E7F, _THAI),
    (0x0E80, 0x0EFF, _FLAT),  # Lao
    (0x1000, 0x10FF, _FLAT),  # Myanmar, Georgian
    (0x1780, 0x17FF, _FLAT),  # Khmer
    (0x1E00, 0x1EFF, _LATIN),
    (0x1F00, 0x1FFF, _GREEK),
    (0x2000, 0x200A, _SPACE),
    (0x2028, 0x2029, _SPACE),
    (0x3000, 0x3000, _SPACE),
    (0x3040, 0x30FF, _KANA),
    (0x3400, 0x4DBF, _HAN),
    (0x4E00, 0x9FFF, _HAN),
    (0xAC00, 0xD7A3, _HANGUL),
)


def bound_tokens(texts: TextArray) -> IntArray:
    """Return per text a number of tokens that no unigram vocabulary exceeds.

    That is the characters of its NFC form. ``texts`` are Arrow strings without nulls.
    """
    return _concatenate([_count_nfc(array) for array in _arrays(texts)])


def estimate_tokens(texts: TextArray) -> IntArray:
    """Return the estimated tokens of each text, never above ``bound_tokens``.

    English comes out 1.1 to 1.25 times a multilingual unigram vocabulary's count, other scripts up
    to 1.4 times. ``texts`` are Arrow strings (valid UTF-8, no nulls).
    """
    return _concatenate([_estimate(array) for array in _arrays(texts)])


def estimate_text(text: str) -> int:
    """Return what ``estimate_tokens`` gives for one text."""
    weight = int(cumulative_weights(text)[-1])
    tokens = -(-weight // WEIGHT_UNIT)
    if text.isascii():
        return min(tokens, len(text))
    return min(tokens, len(unicodedata.normalize("NFC", text)))


def cumulative_weights(text: str) -> IntArray:
    """Return len(text) + 1 sums, from 0: item i is the weight of the first i characters.

    In hundredths of a token. A part cut from the text where a word starts weighs the difference of
    its ends; cut inside a word, up to ``RESTART_WEIGHT`` more.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sums = np.zeros(len(codes) + 1, dtype=np.int64)
    if len(codes):
        np.cumsum(_weigh(codes, np.zeros(1, dtype=np.int64)), out=sums[1:])
    return sums


def _arrays(texts: TextArray) -> Iterator[pa.LargeStringArray]:
    if texts.null_count:
        raise ValueError("token counts need texts without nulls")
    for array in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        yield cast("pa.LargeStringArray", array.cast(pa.large_string()))


def _concatenate(parts: list[IntArray]) -> IntArray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _to_numpy(array: pa.Array[Any]) -> IntArray:
    return array.to_numpy(zero_copy_only=False).astype(np.int64)


def _count_nfc(array: pa.LargeStringArray) -> IntArray:
    lengths = _to_numpy(pc.utf8_length(array))
    rows = np.flatnonzero(~pc.string_is_ascii(array).to_numpy(zero_copy_only=False))
    if len(rows):
        form = pc.Utf8NormalizeOptions(form="NFC")
        normal = pc.call_function("utf8_normalize", [array.take(rows)], form)
        lengths[rows] = _to_numpy(pc.call_function("utf8_length", [normal]))
    return lengths


def _estimate(array: pa.LargeStringArray) -> IntArray:
    count = len(array)
    lengths = _to_numpy(pc.utf8_length(array))
    if not lengths.any():
        return lengths
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(memoryview(offset_buffer or b""), dtype=np.int64)
    offsets = offsets[array.offset : array.offset + count + 1]
    data = np.frombuffer(memoryview(data_buffer or b""), dtype=np.uint8)
    weights = np.zeros(count, dtype=np.int64)
    composing = np.zeros(count, dtype=bool)
    for first, last in _blocks(offsets):
        codes = _decode(data[offsets[first] : offsets[last]])
        filled = first + np.flatnonzero(lengths[first:last])
        starts = np.cumsum(lengths[filled]) - lengths[filled]
        weights[filled] = _sum_parts(_weigh(codes, starts), starts)
        if codes.dtype != np.uint8:
            composing[filled] = _sum_parts(_composing_table()[codes], starts) > 0
    rows = np.flatnonzero(composing)
    if len(rows):
        # Only where characters compose is the NFC form shorter than the text.
        lengths[rows] = np.minimum(lengths[rows], _count_nfc(array.take(rows)))
    return np.minimum(-(-weights // WEIGHT_UNIT), lengths)


def _blocks(offsets: IntArray) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks of about ``_BLOCK_BYTES``, each of at least one row."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK_BYTES, side="right")) - 1
        last = min(max(last, first + 1), count)
        yield first, last
        first = last


def _decode(data: npt.NDArray[np.uint8]) -> Codes:
    """Return the code points of UTF-8 bytes; bytes themselves where all are ASCII."""
    if not len(data) or data.max() < 0x80:
        return data
    return np.frombuffer(data.tobytes().decode().encode("utf-32-le"), dtype=np.uint32)


def _weigh(codes: Codes, starts: IntArray) -> npt.NDArray[np.uint8]:
    """Return the weight of each character of texts that begin at ``starts``."""
    classes = np.take(_class_table(), codes)
    pairs = classes.astype(np.uint16)
    pairs[1:] += classes[:-1] * np.uint16(_CLASSES)
    begins = np.take(_begin_table(), pairs)
    begins[starts] = True
    place = _count_since(begins)
    np.minimum(place, _PLACES - 1, out=place)
    begins[1:] = classes[:-1] < _FIRST_WORD
    begins[starts] = True
    if np.diff(np.flatnonzero(begins), append=len(codes)).max(initial=0) > _LONG_RUN:
        place[(_count_since(begins) >= _LONG_RUN) & (place > 0)] = _PLACES - 1
    return np.take(_weight_table(), classes * np.uint16(_PLACES) + place.astype(np.uint16))


def _count_since(begins: npt.NDArray[np.bool_]) -> IntArray:
    """Return how far each index is from the last true one at or before it; the first is true."""
    marks = np.flatnonzero(begins)
    index = np.arange(len(begins))
    return index - np.repeat(marks, np.diff(marks, append=len(begins)))


def _sum_parts(values: npt.NDArray[Any], starts: IntArray) -> IntArray:
    """Sum the parts of ``values`` that begin at ``starts``, none of them empty."""
    sums: IntArray = np.add.reduceat(values, starts, dtype=np.int64)
    return sums


@cache
def _class_table() -> npt.NDArray[np.uint8]:
    table = np.full(0x110000, _OTHER, dtype=np.uint8)
    for first, last, kind in _RANGES:
        table[first : last + 1] = kind
    return table


@cache
def _begin_table() -> npt.NDArray[np.bool_]:
    """Say for each (class before, class) whether a word begins between the two."""
    table = np.ones((_CLASSES, _CLASSES), dtype=bool)
    letters = (_LOWER, _UPPER, _LATIN)
    table[np.ix_(letters, letters)] = False
    table[_LOWER, _UPPER] = table[_LATIN, _UPPER] = True  # camelCase
    words = np.arange(_FIRST_WORD, _CLASSES)
    table[words, words] = False
    table[_FIRST_WORD:, _MARK] = table[_MARK, _FIRST_WORD:] = False
    return table.ravel()


@cache
def _weight_table() -> npt.NDArray[np.uint8]:
    table = np.zeros((_CLASSES, _PLACES), dtype=np.uint8)
    for kind, weights in _WEIGHTS.items():
        for place, weight in zip(_WEIGHT_PLACES, weights, strict=False):
            table[kind, place:] = weight
    return table.ravel()


@cache
def _composing_table() -> npt.NDArray[np.bool_]:
    """Mark the characters that can vanish into the one before them in the NFC form."""
    table = np.zeros(0x110000, dtype=bool)
    table[0x1161:0x1176] = table[0x11A8:0x11C3] = True  # Hangul vowels and finals
    for code in range(0x20000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            table[int(parts[1], 16)] = True
    return table
