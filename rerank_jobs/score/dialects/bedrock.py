"""Cohere's rerank models on AWS Bedrock, by invoke with a Bedrock API key as bearer token.

The base URL is https://bedrock-runtime.REGION.amazonaws.com; the model stands in the path. The
contract is Bedrock's InvokeModel with Cohere's body of version 2.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Action, Dialect

__all__ = ["BEDROCK"]


def encode(_model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body, which does not name the model."""
    body = {"api_version": 2, "query": query, "documents": texts, "top_n": len(texts), **fields}
    return orjson.dumps(body)


BEDROCK = Dialect(
    name="bedrock",
    path="/model/{model}/invoke",
    encode=encode,
    decode=functools.partial(read_answer, Shape()),
    max_passages=1000,
    score_kind="probability",
    listwise=is_listwise,
    by_status={424: Action.RETRY},  # ModelErrorException: the model failed
)
