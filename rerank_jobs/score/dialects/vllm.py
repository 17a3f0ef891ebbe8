"""vLLM's ``POST /v1/rerank``. The base URL is http://host:8000/v1.

An over-long text is refused with 400 unless an option truncates it; which options there are varies
with vLLM's version. ``use_activation`` is none of them: it decides what a score means. The contract
is https://docs.vllm.ai, "Re-rank API".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from rerank_jobs.score.dialects.replies import Shape, is_listwise, read_answer
from rerank_jobs.score.exchange import Dialect

__all__ = ["VLLM"]


def encode(model: str, query: str, texts: Sequence[str], fields: Mapping[str, Any]) -> bytes:
    """Return the request body; ``top_n`` 0 means every document."""
    body = {"model": model, "query": query, "documents": texts, "top_n": 0, **fields}
    return orjson.dumps(body)


VLLM = Dialect(
    name="vllm",
    path="/rerank",
    encode=encode,
    decode=functools.partial(read_answer, Shape(total_tokens=("usage", "total_tokens"))),
    max_passages=1000,  # none is stated
    score_kind="probability",
    listwise=is_listwise,
    options=frozenset(
        {
            "truncate_prompt_tokens",
            "truncation_side",
            "max_tokens_per_query",
            "max_tokens_per_doc",
            "instruction",
            "chat_template_kwargs",
        }
    ),
)
