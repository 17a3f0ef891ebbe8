"""What is known of each word: its terms, its direction, its weight. Learned once, kept bounded."""

from __future__ import annotations

import hashlib
import importlib.util
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import Stemmer
from safetensors.numpy import load
from tokenizers import Tokenizer

from rerank_jobs.endpoint.languages import is_stop_word
from rerank_jobs.endpoint.text import is_piece
from rerank_jobs.errors import JobError

__all__ = ["TOKEN_PARTS", "UNIT_LENGTH", "Lexicon", "scale_to_unit"]

UNIT_LENGTH = 2047
"""Directions are integer vectors of this length: every float32 dot product of two of them is an
exact integer (2047^2 < 2^24), whatever the order of summation, the batch or the thread count."""

TOKEN_PARTS = 100
"""Tokens of a word are counted in hundredths."""

_TOKENS_PER_CHAR = (
    ("\uac00", 0.53),  # Hangul
    ("\u3400", 0.66),  # Han
    ("\u3040", 0.59),  # kana
    ("\u0590", 0.29),  # Hebrew, Arabic, Indic scripts, Thai
    ("", 0.27),  # Latin, Greek, Cyrillic
)
"""First character of a range of scripts, and what a multilingual unigram model (XLM-R) needs."""

_LETTER_PARTS = 28
_DIGIT_PARTS = 50
"""Bounds, in hundredths of a token per character, where the Llama 2 tokenizer cuts finer than
XLM-R does: foreign words in ASCII letters, and numbers, which it cuts into digits."""

_VECTOR_SCALE = 256
_SCALED_MAX = 2**20
_PREFIX_CHARS = 5
_CAPACITY_STEP = 16_384
_LEARN_AT_ONCE = 512
_MAX_WORDS = 131_072

_WEIGHTS = (
    "weights/l2_supercat_256.safetensors",
    "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
)
_TOKENIZER = (
    "tokenizers/l2_supercat_tokenizer_config.json",
    "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
)


class Lexicon:
    """Numbers words and holds, per word number, the columns that scoring gathers from.

    ``units`` (direction, int16), ``weights`` (length of the word's vector, which serves as its
    rarity), ``stems`` and ``prefixes`` (term numbers), ``tokens`` (in hundredths), ``is_stop``
    (in English). A word's features depend on the word alone, so forgetting and learning it again
    changes nothing but its number. Not thread-safe.
    """

    def __init__(self, vectors: npt.NDArray[np.float16], tokenizer: Tokenizer) -> None:
        """Take token vectors (tokens x dimensions) and the tokenizer that numbers the tokens."""
        self._vectors = vectors
        self._tokenizer = tokenizer
        self._stemmer = Stemmer.Stemmer("english")
        self.forget()

    @classmethod
    def load(cls) -> Lexicon:
        """Read the two data files of the wordllama wheel, without importing it.

        Raises JobError when they are missing or not the expected ones.
        """
        spec = importlib.util.find_spec("wordllama")
        locations = spec.submodule_search_locations if spec else None
        if not locations:
            msg = "the embedded scorer needs wordllama: pip install 'rerank-jobs[embedded]'"
            raise JobError(msg)
        folder = Path(locations[0])
        vectors = load(_read_checked(folder, *_WEIGHTS))["embedding.weight"]
        tokenizer = Tokenizer.from_str(_read_checked(folder, *_TOKENIZER).decode("utf-8"))
        return cls(vectors, tokenizer)

    @property
    def is_full(self) -> bool:
        """Whether so many words are known that it is time to forget."""
        return len(self._numbers) > _MAX_WORDS

    @property
    def dimensions(self) -> int:
        """Length of a direction vector."""
        return int(self._vectors.shape[1])

    def forget(self) -> None:
        """Drop every word; all numbers given out before are void."""
        self._numbers: dict[str, int] = {}
        self._stem_numbers: dict[str, int] = {}
        self._prefix_numbers: dict[str, int] = {}
        self.units = np.zeros((_CAPACITY_STEP, self.dimensions), dtype=np.int16)
        self.weights = np.zeros(_CAPACITY_STEP, dtype=np.float64)
        self.stems = np.zeros(_CAPACITY_STEP, dtype=np.int32)
        self.prefixes = np.zeros(_CAPACITY_STEP, dtype=np.int32)
        self.tokens = np.zeros(_CAPACITY_STEP, dtype=np.int64)
        self.is_stop = np.zeros(_CAPACITY_STEP, dtype=np.bool_)

    def number_words(self, words: list[str]) -> npt.NDArray[np.int32]:
        """Return each word's number, learning new words first."""
        numbers = self._numbers
        new = [word for word in dict.fromkeys(words) if word not in numbers]
        for start in range(0, len(new), _LEARN_AT_ONCE):
            self._learn(new[start : start + _LEARN_AT_ONCE])
        return np.fromiter(map(numbers.__getitem__, words), dtype=np.int32, count=len(words))

    def _learn(self, words: list[str]) -> None:
        first = len(self._numbers)
        end = first + len(words)
        self._reserve(end)
        # One by one: a batch would start threads, which a process that forks later must not have.
        encode = self._tokenizer.encode
        tokens = [encode(word, add_special_tokens=False).ids for word in words]
        counts = np.fromiter(map(len, tokens), dtype=np.int64, count=len(words))
        flat = np.fromiter(chain.from_iterable(tokens), dtype=np.int64)
        starts = np.cumsum(counts) - counts
        sums = np.add.reduceat(self._vectors[flat].astype(np.float64), starts, axis=0)
        scaled = np.rint(sums * _VECTOR_SCALE)
        lengths = np.sqrt(np.square(scaled).sum(axis=1))
        self.units[first:end] = np.rint(scaled * (UNIT_LENGTH / np.maximum(lengths, 1))[:, None])
        self.weights[first:end] = np.rint(lengths)
        for number, (word, count) in enumerate(zip(words, counts.tolist(), strict=True), first):
            prefix = word[:_PREFIX_CHARS]
            stem = self._stemmer.stemWord(word) if word.isascii() else prefix
            self.stems[number] = self._stem_numbers.setdefault(stem, len(self._stem_numbers))
            self.prefixes[number] = self._prefix_numbers.setdefault(
                prefix, len(self._prefix_numbers)
            )
            self.tokens[number] = _count_token_parts(word, count)
            self.is_stop[number] = is_stop_word(word)
            self._numbers[word] = number

    def _reserve(self, size: int) -> None:
        held = len(self.weights)
        if size <= held:
            return
        for name in ("units", "weights", "stems", "prefixes", "tokens", "is_stop"):
            column = getattr(self, name)
            grown = np.zeros((size + _CAPACITY_STEP, *column.shape[1:]), dtype=column.dtype)
            grown[:held] = column
            setattr(self, name, grown)


def scale_to_unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the direction of an integer-valued vector as integers of length UNIT_LENGTH.

    A zero vector has the zero direction. All sums are exact, so no machine rounds otherwise.
    """
    largest = float(np.abs(vector).max())
    if largest == 0:
        return np.zeros(len(vector), dtype=np.float32)
    scaled = np.rint(vector * (_SCALED_MAX / largest))
    length = float(np.sqrt(np.square(scaled).sum()))
    return np.rint(scaled * (UNIT_LENGTH / length)).astype(np.float32)


def _count_token_parts(word: str, tokens: int) -> int:
    if word.isascii():
        parts_per_char = _LETTER_PARTS if word.isalpha() else _DIGIT_PARTS
        return min(tokens * TOKEN_PARTS, max(TOKEN_PARTS, len(word) * parts_per_char))
    tokens_per_char = next(rate for first, rate in _TOKENS_PER_CHAR if word[0] >= first)
    chars = 1 if is_piece(word) else len(word)  # pieces overlap, each brings one character
    return max(1, round(chars * tokens_per_char * TOKEN_PARTS))


def _read_checked(folder: Path, name: str, sha256: str) -> bytes:
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        msg = f"cannot read {name} of wordllama: pip install 'rerank-jobs[embedded]'"
        raise JobError(msg) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        msg = f"{name} of wordllama is not the expected file: pip install 'rerank-jobs[embedded]'"
        raise JobError(msg)
    return content
