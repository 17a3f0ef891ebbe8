"""How tokens are counted and long texts cut: by estimate, or by a tokenizer of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rerank_jobs.plan.tokens import estimate_tokens
from rerank_jobs.plan.windows import cut_windows, truncate

__all__ = ["ESTIMATE", "TokenCounter"]


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Three functions that agree with each other; texts are Arrow strings without nulls.

    ``count(texts)`` gives the tokens of each text. ``cut(text, limit, overlap)`` gives windows and
    ``truncate(text, limit)`` a beginning, each at most ``limit`` tokens by ``count``.
    """

    count: Callable[[pa.Array[Any] | pa.ChunkedArray[Any]], npt.NDArray[np.int64]]
    cut: Callable[[str, int, int], list[str]]
    truncate: Callable[[str, int], str]


ESTIMATE = TokenCounter(estimate_tokens, cut_windows, truncate)
"""Counts by characters and scripts, with a margin, where no tokenizer is known."""
