"""Wire formats of rerank APIs, each a frozen ``Dialect`` in a module of its own."""

from __future__ import annotations

from rerank_jobs.score.dialects.bedrock import BEDROCK
from rerank_jobs.score.dialects.cohere import COHERE
from rerank_jobs.score.dialects.infinity import INFINITY
from rerank_jobs.score.dialects.jina import JINA
from rerank_jobs.score.dialects.nim import NIM
from rerank_jobs.score.dialects.openrouter import OPENROUTER
from rerank_jobs.score.dialects.tei import TEI
from rerank_jobs.score.dialects.vllm import VLLM
from rerank_jobs.score.dialects.voyage import VOYAGE
from rerank_jobs.score.exchange import Dialect

__all__ = ["DIALECTS", "OPENROUTER"]

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (OPENROUTER, COHERE, JINA, VOYAGE, VLLM, TEI, INFINITY, NIM, BEDROCK)
}
"""Every dialect by the name that a job file uses."""
