"""OpenRouter's ``POST /rerank``. The base URL is https://openrouter.ai/api/v1.

The request holds only documented fields and leaves ``top_n`` out, so that every document comes
back. The contract is https://openrouter.ai/docs (operation createRerank).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Dialect

__all__ = ["OPENROUTER"]


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; documents stand in the order of ``texts``."""
    return orjson.dumps({"model": model, "query": query, "documents": texts, **fields})


_SHAPE = Shape(
    search_units=("usage", "search_units"),
    total_tokens=("usage", "total_tokens"),
    cost_usd=("usage", "cost"),
    names_model=True,
)

OPENROUTER = Dialect(
    name="openrouter",
    path="/rerank",
    encode=encode,
    decode=functools.partial(read_answer, _SHAPE),
    max_passages=1000,  # Cohere, behind it, advises against more
    score_kind="probability",
    listwise=is_listwise,
    routes=True,
)
