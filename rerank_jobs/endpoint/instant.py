"""What the app asks of a scorer, and the scorer that costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

__all__ = ["InstantScorer", "Scorer"]

_CHARS_PER_TOKEN = 4
_SCORE_STEPS = 10**6


class Scorer(Protocol):
    """Scores pairs: the score of one never depends on the other documents of the call."""

    @property
    def model(self) -> str:
        """The model name that replies carry: ``embedded/<name>-<version>``."""

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return one finite score in [0, 1] per document, in the order given."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens that each text counts for, in the order given."""


class InstantScorer:
    """Deterministic scores that mean nothing, for load and crash tests: some 2 us a pair.

    The score is a digest of query and document scaled to six decimals in [0, 1); a text counts
    ceil(characters / 4) tokens.
    """

    model = "embedded/instant-1"

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return one score in [0, 1) per document."""
        key = blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return [_score_digest(key, document) for document in documents]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return ceil(characters / 4) per text."""
        return [-(-len(text) // _CHARS_PER_TOKEN) for text in texts]


def _score_digest(key: bytes, document: str) -> float:
    text = document.encode("utf-8", "surrogatepass")
    digest = blake2b(text, digest_size=8, key=key).digest()
    return int.from_bytes(digest, "big") % _SCORE_STEPS / _SCORE_STEPS
