"""Exact token counts and windows, by a tokenizer.json that the user names.

Needs the package ``tokenizers``, an extra. Special tokens are not counted: the model's own are the
3 tokens that every pair reserves.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rerank_jobs.config import Job
from rerank_jobs.errors import JobError
from rerank_jobs.plan.counting import TokenCounter
from rerank_jobs.plan.tokens import WEIGHT_UNIT
from rerank_jobs.plan.windows import check_limit, cut_head, spread_windows

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["TokenizerFile", "make_counter", "read_tokenizer"]

_TRIES = 4
"""How often windows are spread anew with more slack before those that are too long are halved."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A tokenizer.json as it was read once: what a plan counts by is what its id names."""

    path: str
    sha256: str
    content: bytes = field(repr=False)


def read_tokenizer(job: Job) -> TokenizerFile | None:
    """Read the file that ``context.tokenizer`` names; ``None`` where none is named.

    Raises:
        JobError: it cannot be read.

    """
    if job.context.tokenizer is None:
        return None
    path = job.resolve(job.context.tokenizer)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise JobError(
            f"job {job.name}: context.tokenizer: {path} cannot be read ({type(error).__name__}):"
            " name a tokenizer.json on this machine"
        ) from None
    return TokenizerFile(path, hashlib.sha256(content).hexdigest(), content)


def make_counter(file: TokenizerFile) -> TokenCounter:
    """Return exact counts and cuts by a tokenizer.

    Raises:
        JobError: the package is not installed, or the file is no tokenizer.

    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise JobError(
            "context.tokenizer needs a package: pip install 'rerank-jobs[tokenizers]'"
        ) from None
    try:
        tokenizer = Tokenizer.from_str(file.content.decode())
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise JobError(
            f"{file.path}: not a tokenizer ({type(error).__name__}): context.tokenizer names a"
            " tokenizer.json as the package tokenizers writes it"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenCounter(
        functools.partial(_count, tokenizer),
        functools.partial(_cut, tokenizer),
        functools.partial(_truncate, tokenizer),
    )


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    # One by one: a batch would start threads, which a process that forks later must not have.
    return tokenizer.encode(text, add_special_tokens=False)


def _count(tokenizer: Tokenizer, texts: pa.Array[Any] | pa.ChunkedArray[Any]) -> IntArray:
    plain: list[Any] = texts.to_pylist()
    counts = (len(_encode(tokenizer, text)) for text in plain)
    return np.fromiter(counts, dtype=np.int64, count=len(plain))


def _cut(tokenizer: Tokenizer, text: str, limit_tokens: int, overlap_tokens: int) -> list[str]:
    """Return windows that cover the text, each at most ``limit_tokens`` when counted by itself.

    A part is not always as many tokens as it was within the whole: spread until all fit.
    """
    check_limit(limit_tokens)
    encoding = _encode(tokenizer, text)
    if len(encoding) <= limit_tokens:
        return [text]
    sums = _sum_tokens(encoding, len(text))
    room, windows = limit_tokens - 1, [text]
    for _ in range(_TRIES):
        spans = spread_windows(text, sums, room * WEIGHT_UNIT, overlap_tokens)
        windows = [text[first:last] for first, last in spans]
        excess = max(len(_encode(tokenizer, window)) for window in windows) - limit_tokens
        if excess <= 0:
            return windows
        room = max(limit_tokens // 4, room - excess)
    return [part for window in windows for part in _halve(tokenizer, window, limit_tokens)]


def _halve(tokenizer: Tokenizer, text: str, limit_tokens: int) -> list[str]:
    """Return the parts of a text after halving it until each fits (a character stays whole)."""
    if len(text) == 1 or len(_encode(tokenizer, text)) <= limit_tokens:
        return [text] if text.strip() else []
    middle = len(text) // 2
    return [
        part
        for half in (text[:middle], text[middle:])
        for part in _halve(tokenizer, half, limit_tokens)
    ]


def _truncate(tokenizer: Tokenizer, text: str, limit_tokens: int) -> str:
    """Return a beginning of at most ``limit_tokens`` when counted by itself."""
    check_limit(limit_tokens)
    encoding = _encode(tokenizer, text)
    if len(encoding) <= limit_tokens:
        return text
    sums = _sum_tokens(encoding, len(text))
    head, room = text, limit_tokens
    while (excess := len(_encode(tokenizer, head)) - limit_tokens) > 0 and len(head) > 1:
        room -= 0 if head is text else excess
        head = cut_head(text, sums, room) if room > 0 else head[: len(head) // 2]
    if not head.strip() and text.strip() and text[0].isspace():
        return _truncate(tokenizer, text.lstrip(), limit_tokens)
    return head


def _sum_tokens(encoding: Encoding, length: int) -> IntArray:
    """Return length + 1 sums, from 0, of the tokens before each character of the text.

    In ``WEIGHT_UNIT`` a token; within a token they grow evenly.
    """
    ends = np.maximum.accumulate(np.array([end for _, end in encoding.offsets], dtype=np.int64))
    last_of_end = np.flatnonzero(np.diff(ends, append=length + 1))
    last_of_end = last_of_end[ends[last_of_end] > 0]
    places = np.concatenate([[0], ends[last_of_end], [length]])
    counts = np.concatenate([[0], last_of_end + 1, [len(ends)]]) * WEIGHT_UNIT
    sums: IntArray = np.interp(np.arange(length + 1), places, counts).astype(np.int64)
    return sums
