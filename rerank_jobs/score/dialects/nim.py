"""NVIDIA NIM's ``POST /v1/ranking``. The base URL is http://host:8000/v1.

Scores are logits. Without ``truncate: END`` one over-long passage is refused with 400 for the whole
request. The contract is https://docs.nvidia.com/nim/nemo-retriever/text-reranking.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Dialect

__all__ = ["NIM"]


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; all passages come back, a top field is refused."""
    body = {
        "model": model,
        "query": {"text": query},
        "passages": [{"text": text} for text in texts],
        **fields,
    }
    return orjson.dumps(body)


_SHAPE = Shape(results="rankings", score="logit", total_tokens=("usage", "total_tokens"))

NIM = Dialect(
    name="nim",
    path="/ranking",
    encode=encode,
    decode=functools.partial(read_answer, _SHAPE),
    max_passages=512,
    score_kind="logit",
    listwise=is_listwise,
    options=frozenset({"truncate"}),
)
