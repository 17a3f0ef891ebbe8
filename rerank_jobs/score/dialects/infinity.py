"""Infinity's ``POST /rerank``. The base URL is http://host:7997 and what --url-prefix adds.

A text of more than 122,880 characters is refused. The contract is the server's own /docs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Dialect

__all__ = ["INFINITY"]


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; raw scores would be logits."""
    body = {
        "model": model,
        "query": query,
        "documents": texts,
        "top_n": len(texts),
        "return_documents": False,
        "raw_scores": False,
        **fields,
    }
    return orjson.dumps(body)


INFINITY = Dialect(
    name="infinity",
    path="/rerank",
    encode=encode,
    decode=functools.partial(read_answer, Shape(total_tokens=("usage", "total_tokens"))),
    max_passages=2048,  # INFINITY_MAX_CLIENT_BATCH_SIZE unless the server is started with another
    score_kind="probability",
    listwise=is_listwise,
)
