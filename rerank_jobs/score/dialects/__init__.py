"""Wire formats of rerank APIs, each a frozen ``Dialect`` in a module of its own."""

from __future__ import annotations

from rerank_jobs.score.dialects.openrouter import OPENROUTER
from rerank_jobs.score.exchange import Dialect

__all__ = ["DIALECTS", "OPENROUTER"]

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OPENROUTER,)}
"""Every dialect by the name that a job file uses."""
