"""Voyage's ``POST /v1/rerank``. The base URL is https://api.voyageai.com/v1.

The contract is https://docs.voyageai.com/reference/reranker-api.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Dialect

__all__ = ["VOYAGE"]


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; ``top_k`` is what others call top_n."""
    body = {
        "model": model,
        "query": query,
        "documents": texts,
        "top_k": len(texts),
        "return_documents": False,
        **fields,
    }
    return orjson.dumps(body)


_SHAPE = Shape(results="data", total_tokens=("usage", "total_tokens"))

VOYAGE = Dialect(
    name="voyage",
    path="/rerank",
    encode=encode,
    decode=functools.partial(read_answer, _SHAPE),
    max_passages=1000,
    score_kind="probability",
    listwise=is_listwise,
    options=frozenset({"truncation"}),
)
