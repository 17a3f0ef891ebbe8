"""A small BM25 index: the demo's first stage, as a search engine's would be."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Bm25", "words_of"]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def words_of(text: str) -> list[str]:
    """Return the lower-cased words, with camelCase and snake_case names split into their parts."""
    return [word.lower() for word in _WORD.findall(text)]


class Bm25:
    """An index over documents given once, in their order; scoring is deterministic.

    Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with the
    idf ln(1 + (N - n + 0.5) / (n + 0.5)), which never falls below 0.
    """

    def __init__(
        self, documents: Iterable[Sequence[str]], *, k1: float = 1.2, b: float = 0.75
    ) -> None:
        """Index ``documents``, each a sequence of words."""
        counts = [Counter(words) for words in documents]
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        norms = k1 * (1 - b + b * lengths / max(lengths.mean(), 1.0))
        postings: dict[str, list[tuple[int, int]]] = {}
        for at, count in enumerate(counts):
            for word, frequency in count.items():
                postings.setdefault(word, []).append((at, frequency))
        self._size = len(counts)
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, entries in postings.items():
            where, frequency = np.array(entries).T
            idf = np.log(1 + (self._size - len(entries) + 0.5) / (len(entries) + 0.5))
            weight = idf * frequency * (k1 + 1) / (frequency + norms[where])
            self._weights[word] = (where, weight)

    def scores(self, query: Sequence[str]) -> np.ndarray:
        """Return one score per document; a word that occurs twice in the query counts twice."""
        scores = np.zeros(self._size)
        for word in query:
            if word in self._weights:
                where, weight = self._weights[word]
                scores[where] += weight
        return scores

    def best(self, query: Sequence[str], limit: int) -> list[tuple[int, float]]:
        """Return the ``limit`` best documents as (position, score); ties in document order."""
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")[:limit]
        return [(int(at), float(scores[at])) for at in order]
