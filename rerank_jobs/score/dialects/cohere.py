"""Cohere's ``POST /v2/rerank``, which gateways speak too. The base URL ends in /v2.

So that one path serves all of them: https://api.cohere.com/v2, LiteLLM's http://host:4000/v2 (or
/v1), Azure's https://name.region.inference.ai.azure.com/v2 and
https://name.services.ai.azure.com/providers/cohere/v2, Vercel's https://ai-gateway.vercel.sh/v2.
The contract is https://docs.cohere.com/v2/reference/rerank.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Dialect

__all__ = ["COHERE"]


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; ``top_n`` asks for every document, whatever a gateway's default."""
    body = {"model": model, "query": query, "documents": texts, "top_n": len(texts), **fields}
    return orjson.dumps(body)


_SHAPE = Shape(
    search_units=("meta", "billed_units", "search_units"),
    total_tokens=("meta", "billed_units", "total_tokens"),  # LiteLLM, for models priced by tokens
)

COHERE = Dialect(
    name="cohere",
    path="/rerank",
    encode=encode,
    decode=functools.partial(read_answer, _SHAPE),
    max_passages=1000,  # more than 10,000 are an error, more than 1,000 advised against
    score_kind="probability",
    listwise=is_listwise,
    options=frozenset({"max_tokens_per_doc", "priority"}),
)
