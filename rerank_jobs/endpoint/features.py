"""Four signals of how well texts match a query, each a function of one query and one text.

All texts of a request are laid end to end and every signal is computed over all of them at once,
with arithmetic that is exact or elementwise, so that a text's signals never depend on its
neighbours. The signals, W being a query word's rarity times its count:

- lexical: sum W tf / (tf + 1.2 (.25 + .75 L / 100)) / sum W, BM25's saturation with a fixed length
- cosine: between the summed word vectors of query and text
- soft: sum W m / sum W, m = 1 on a term match, else the best cosine to any word of the text
- adjacent: closeness of neighbouring query words: 1 within 1 word, .6 within 3, .3 within 8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from rerank_jobs.endpoint.languages import ENGLISH, detect_language, is_stop_word
from rerank_jobs.endpoint.lexicon import TOKEN_PARTS, UNIT_LENGTH, Lexicon, scale_to_unit
from rerank_jobs.endpoint.text import count_marks, split_words

__all__ = ["QueryFeatures", "Signals", "TextFeatures", "match_texts", "read_query", "read_text"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int32]

_LONG_WORDS = 600
_PASSAGE_WORDS = 240
_SATURATION = 1.2
_LENGTH_SHARE = 0.75
_TYPICAL_WORDS = 100
_CLOSENESS = ((8, 0.3), (3, 0.6), (1, 1.0))
_GAP = 10
_GEMM_CELLS = 2**18


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """One text: its words in order, cut into passages (one, unless it is longer than 600 words).

    ``starts`` and ``lengths`` (English stop words left out) have one entry per passage, ``units``
    one direction per passage.
    """

    words: Numbers
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    units: npt.NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class QueryFeatures:
    """One query: distinct content words with their terms and W, neighbouring terms, direction.

    An English query matches by Snowball stems; any other by the first five letters of words, for
    which rarity is damped, because the vectors know little of other languages.
    """

    is_english: bool
    words: Numbers
    terms: Numbers
    rarities: tuple[float, ...]
    neighbours: tuple[tuple[int, int], ...]
    unit: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Signals:
    """The four signals per passage, in the order of the texts' passages."""

    lexical: Floats
    cosine: Floats
    soft: Floats
    adjacent: Floats


def read_text(lexicon: Lexicon, text: str) -> TextFeatures:
    """Return what a text shows to any query."""
    words = lexicon.number_words(split_words(text))
    size = len(words)
    passages = round(size / _PASSAGE_WORDS) if size > _LONG_WORDS else 1
    bounds = [size * passage // passages for passage in range(passages + 1)]
    parts = [words[start:end] for start, end in pairwise(bounds)]
    parted = int(lexicon.tokens[words].sum()) + TOKEN_PARTS * count_marks(text)
    return TextFeatures(
        words=words,
        starts=np.array(bounds[:-1], dtype=np.int64),
        lengths=np.array([len(part) - lexicon.is_stop[part].sum() for part in parts]),
        units=np.stack([_sum_direction(lexicon, part) for part in parts]),
        tokens=-(-parted // TOKEN_PARTS),
    )


def read_query(lexicon: Lexicon, query: str) -> QueryFeatures:
    """Return what a query asks of any text; a query of stop words alone keeps them."""
    spelled = split_words(query)
    language = detect_language(spelled)
    is_english = language == ENGLISH
    content = [word for word in spelled if not is_stop_word(word, language)] or spelled
    words = lexicon.number_words(content)
    terms = (lexicon.stems if is_english else lexicon.prefixes)[words]
    _, first, counts = np.unique(terms, return_index=True, return_counts=True)
    in_order = np.argsort(first)
    first, counts = first[in_order], counts[in_order]
    weights = lexicon.weights[words[first]]
    rarities = (weights if is_english else np.sqrt(weights)) * counts
    listed = terms.tolist()
    return QueryFeatures(
        is_english=is_english,
        words=words[first],
        terms=terms[first],
        rarities=tuple(rarities.tolist()),
        neighbours=tuple((left, right) for left, right in pairwise(listed) if left != right),
        unit=_sum_direction(lexicon, lexicon.number_words(spelled)),
    )


def match_texts(lexicon: Lexicon, query: QueryFeatures, texts: Sequence[TextFeatures]) -> Signals:
    """Return the signals of every passage of ``texts`` (at least one text)."""
    words = np.concatenate([text.words for text in texts])
    sizes = np.fromiter((len(text.words) for text in texts), dtype=np.int64)
    bases = np.cumsum(sizes) - sizes
    starts = np.concatenate([text.starts + base for text, base in zip(texts, bases, strict=True)])
    lengths = np.concatenate([text.lengths for text in texts])
    units = np.concatenate([text.units for text in texts])
    cosine = (units @ query.unit).astype(np.float64) / UNIT_LENGTH**2
    layout = _Layout.of(words, starts, (lexicon.stems if query.is_english else lexicon.prefixes))
    if len(layout.filled) == 0 or len(query.words) == 0:
        nothing = np.zeros(len(starts))
        return Signals(nothing, cosine, nothing, nothing)
    lexical, soft = _match_words(lexicon, query, layout, lengths)
    adjacent = _match_neighbours(query, layout) if query.neighbours else lexical
    return Signals(lexical, cosine, soft, adjacent)


@dataclass(frozen=True, slots=True)
class _Layout:
    """All passages end to end: words, their terms, and which passage each word is in."""

    words: Numbers
    terms: Numbers
    passages: int
    filled: npt.NDArray[np.int64]
    filled_starts: npt.NDArray[np.int64]
    passage_of: npt.NDArray[np.int64]

    @classmethod
    def of(cls, words: Numbers, starts: npt.NDArray[np.int64], terms: Numbers) -> _Layout:
        sizes = np.diff(starts, append=len(words))
        filled = np.flatnonzero(sizes)
        return cls(
            words=words,
            terms=terms[words],
            passages=len(starts),
            filled=filled,
            filled_starts=starts[filled],
            passage_of=np.repeat(np.arange(len(starts)), sizes),
        )


def _match_words(
    lexicon: Lexicon, query: QueryFeatures, layout: _Layout, lengths: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return the lexical and the soft signal.

    Summed word by word of the query: a sum over an axis could change its order with the shape.
    """
    starts = layout.filled_starts
    norm = _SATURATION * (
        (1 - _LENGTH_SHARE) + _LENGTH_SHARE * lengths[layout.filled] / _TYPICAL_WORDS
    )
    distinct, at = np.unique(layout.words, return_inverse=True)
    cosines = _cosines(lexicon, query.words, distinct)
    lexical = np.zeros(len(starts))
    soft = np.zeros(len(starts))
    for number, (term, rarity) in enumerate(zip(query.terms, query.rarities, strict=True)):
        frequency = np.add.reduceat(layout.terms == term, starts, dtype=np.int64)
        lexical += rarity * (frequency / (frequency + norm))
        best = np.maximum.reduceat(cosines[number][at], starts).astype(np.float64)
        soft += rarity * np.where(frequency > 0, 1.0, np.clip(best / UNIT_LENGTH**2, 0.0, 1.0))
    total = sum(query.rarities) or 1.0
    return _spread(lexical / total, layout), _spread(soft / total, layout)


def _match_neighbours(query: QueryFeatures, layout: _Layout) -> Floats:
    """Return the adjacency signal: the mean over the query's pairs of neighbouring terms."""
    positions = np.arange(len(layout.words)) + _GAP * layout.passage_of
    closeness = np.zeros(layout.passages)
    for left, right in query.neighbours:
        at_left = np.flatnonzero(layout.terms == left)
        at_right = np.flatnonzero(layout.terms == right)
        if len(at_left) == 0 or len(at_right) == 0:
            continue
        here, there = positions[at_right], positions[at_left]
        after = np.searchsorted(there, here)
        distance = np.minimum(
            np.abs(there[np.minimum(after, len(there) - 1)] - here),
            np.abs(there[np.maximum(after - 1, 0)] - here),
        )
        close = np.zeros(len(here))
        for limit, value in _CLOSENESS:
            close[distance <= limit] = value
        best = np.zeros(layout.passages)
        np.maximum.at(best, layout.passage_of[at_right], close)
        closeness += best
    return closeness / len(query.neighbours)


def _cosines(lexicon: Lexicon, left: Numbers, right: Numbers) -> npt.NDArray[np.float32]:
    """Return exact dot products (left x right), in blocks too small for BLAS to start threads."""
    queries = lexicon.units[left].astype(np.float32)
    cosines = np.empty((len(left), len(right)), dtype=np.float32)
    block = max(1, _GEMM_CELLS // (queries.size or 1))
    for start in range(0, len(right), block):
        units = lexicon.units[right[start : start + block]].astype(np.float32)
        np.matmul(queries, units.T, out=cosines[:, start : start + block])
    return cosines


def _spread(values: Floats, layout: _Layout) -> Floats:
    spread = np.zeros(layout.passages)
    spread[layout.filled] = values
    return spread


def _sum_direction(lexicon: Lexicon, words: Numbers) -> npt.NDArray[np.float32]:
    """Return the direction of the summed word vectors; the sum is of integers, hence exact."""
    if len(words) == 0:
        return np.zeros(lexicon.dimensions, dtype=np.float32)
    weights = lexicon.weights[words]
    return scale_to_unit(weights @ lexicon.units[words].astype(np.float64))
