"""Text Embeddings Inference's ``POST /rerank``. The base URL is http://host:port.

The server has one model and names none: the requested one stands for it. The contract is
https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Action, Dialect

__all__ = ["TEI"]


def encode(_model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body, which has no place for a model."""
    body = {"query": query, "texts": texts, "raw_scores": False, "return_text": False, **fields}
    return orjson.dumps(body)


_SHAPE = Shape(results=None, score="score", tokens_header="x-compute-tokens")

TEI = Dialect(
    name="tei",
    path="/rerank",
    encode=encode,
    decode=functools.partial(read_answer, _SHAPE),
    max_passages=32,  # --max-client-batch-size unless the server is started with another
    score_kind="probability",
    listwise=is_listwise,
    by_status={424: Action.RETRY},  # its backend failed
    options=frozenset({"truncate", "truncation_direction"}),
)
