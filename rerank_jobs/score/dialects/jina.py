"""Jina's ``POST /v1/rerank``. The base URL is https://api.jina.ai/v1.

jina-reranker-v3 is listwise. jina-reranker-v2 sees 1,024 tokens at once; the server cuts longer
texts into parts by itself. The contract is https://jina.ai/reranker.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Dialect

__all__ = ["JINA"]


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; documents are not echoed, which Jina does unless told."""
    body = {
        "model": model,
        "query": query,
        "documents": texts,
        "top_n": len(texts),
        "return_documents": False,
        **fields,
    }
    return orjson.dumps(body)


JINA = Dialect(
    name="jina",
    path="/rerank",
    encode=encode,
    decode=functools.partial(read_answer, Shape(total_tokens=("usage", "total_tokens"))),
    max_passages=1000,  # none is stated
    score_kind="probability",
    listwise=is_listwise,
)
