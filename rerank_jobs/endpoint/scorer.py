"""The offline relevance scorer: an English stand-in for a cross-encoder, exact and pairwise."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import accumulate, pairwise

from rerank_jobs.endpoint.features import (
    QueryFeatures,
    Signals,
    TextFeatures,
    match_texts,
    read_query,
    read_text,
)
from rerank_jobs.endpoint.lexicon import Lexicon

__all__ = ["SCORER_VERSION", "EmbeddedScorer"]

SCORER_VERSION = "lexvec-1"
"""Changes with every change that moves any score."""

_BEST_PASSAGES = 3
_BIAS = 3.0
_SLOPE = 6.4
_DECIMALS = 6
_BLOCK_WORDS = 100_000
_MAX_TEXTS = 8192
_MAX_TEXT_WORDS = 4_000_000


class EmbeddedScorer:
    """Scores in [0, 1]; the same pair has the same score, bit for bit.

    It does not matter how documents are batched, split, reordered or merged, what was scored
    before, or how many threads there are. Texts of any script are taken; ranking quality is that
    of an English stand-in. Thread-safe (one call works at a time); some 100 MB once warm.
    """

    model = f"embedded/{SCORER_VERSION}"

    def __init__(self, lexicon: Lexicon) -> None:
        """Start with nothing cached."""
        self._lexicon = lexicon
        self._texts: dict[bytes, TextFeatures] = {}
        self._held_words = 0
        self._lock = threading.Lock()

    @classmethod
    def load(cls) -> EmbeddedScorer:
        """Return a scorer over the wordllama wheel's vectors (0.3 s).

        Raises JobError, naming what to install, when the wheel is missing or changed.
        """
        return cls(Lexicon.load())

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return one score per document, rounded to six decimals, in the order given."""
        with self._lock:
            self._bound_caches()
            texts = [self._read(document) for document in documents]
            asked = read_query(self._lexicon, query)
            scores: list[float] = []
            for block in _cut_blocks(texts):
                signals = match_texts(self._lexicon, asked, block)
                scores += _combine(asked, signals, [len(text.starts) for text in block])
        return scores

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens a multilingual unigram model would need for each text, roughly.

        ASCII words count as the Llama 2 tokenizer cuts them, other words by their script's tokens
        per character, other marks one each.
        """
        with self._lock:
            self._bound_caches()
            return [self._read(text).tokens for text in texts]

    def _read(self, text: str) -> TextFeatures:
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        features = self._texts.get(key)
        if features is None:
            features = self._texts[key] = read_text(self._lexicon, text)
            self._held_words += len(features.words)
        return features

    def _bound_caches(self) -> None:
        """Drop what is cached when it is too much; called between requests only."""
        if self._lexicon.is_full:
            self._lexicon.forget()
        elif len(self._texts) <= _MAX_TEXTS and self._held_words <= _MAX_TEXT_WORDS:
            return
        self._texts.clear()
        self._held_words = 0


def _cut_blocks(texts: Sequence[TextFeatures]) -> Iterator[list[TextFeatures]]:
    """Yield the texts in order, in blocks whose working arrays stay small (some 20 MB)."""
    block: list[TextFeatures] = []
    words = 0
    for text in texts:
        if block and words + len(text.words) > _BLOCK_WORDS:
            yield block
            block, words = [], 0
        block.append(text)
        words += len(text.words)
    if block:
        yield block


def _combine(query: QueryFeatures, signals: Signals, passages: Sequence[int]) -> list[float]:
    """Return a score per document from the signals of its passages.

    Each signal of a long document is the mean of its best three passages. Short queries lean on
    the vectors, long ones on shared words and their order; other languages on shared words.
    """
    weights = _weigh(query)
    columns = [
        signals.lexical.tolist(),
        signals.cosine.tolist(),
        signals.soft.tolist(),
        signals.adjacent.tolist(),
    ]
    scores = []
    for start, end in pairwise(accumulate(passages, initial=0)):
        raw = sum(
            weight * _mean_best(column[start:end])
            for weight, column in zip(weights, columns, strict=True)
        )
        scores.append(round(1 / (1 + math.exp(_BIAS - _SLOPE * raw)), _DECIMALS))
    return scores


def _weigh(query: QueryFeatures) -> tuple[float, ...]:
    """Return the weights of lexical, cosine, soft and adjacent; they add up to 1.

    Chosen on chorus_products, trec_session_log, cranfield, scifact and XQuAD.
    """
    if not query.is_english:
        return (0.6, 0.1, 0.1, 0.2)
    size = min(len(query.words), 10)
    weights = (2 + 0.2 * size, 8 - 0.4 * size, 3.0, 1 + 0.2 * size)
    return tuple(weight / 14 for weight in weights)


def _mean_best(values: Sequence[float]) -> float:
    if len(values) == 1:
        return values[0]
    best = sorted(values, reverse=True)[:_BEST_PASSAGES]
    return sum(best) / len(best)
