"""Send requests to a rerank endpoint at its limit, and hand over every outcome."""

from __future__ import annotations

from rerank_jobs.score.access import read_access
from rerank_jobs.score.account import Account, KeyReply, ask_account, describe_account
from rerank_jobs.score.client import RerankClient, open_client
from rerank_jobs.score.dialects import DIALECTS
from rerank_jobs.score.dialects.fields import body_fields, ranks_listwise
from rerank_jobs.score.exchange import Dialect
from rerank_jobs.score.executor import ScoreResult, score_requests
from rerank_jobs.score.latency import read_percentile
from rerank_jobs.score.limit_store import RedisLimitStore, read_shared_limit, try_store
from rerank_jobs.score.meter import Progress
from rerank_jobs.score.settings import ScoreSettings

__all__ = [
    "DIALECTS",
    "Account",
    "Dialect",
    "KeyReply",
    "Progress",
    "RedisLimitStore",
    "RerankClient",
    "ScoreResult",
    "ScoreSettings",
    "ask_account",
    "body_fields",
    "describe_account",
    "open_client",
    "ranks_listwise",
    "read_access",
    "read_percentile",
    "read_shared_limit",
    "score_requests",
    "try_store",
]
