"""The job file as values: one frozen, fully validated ``Job`` and its parts."""

from __future__ import annotations

from rerank_jobs.config.endpoint import API_SEARCH_USD, EMBEDDED, Endpoint
from rerank_jobs.config.job import Job, read_api_key, read_secret_headers, read_store_password
from rerank_jobs.config.limits import Context, Ledger
from rerank_jobs.config.table import Columns, Input, Layout
from rerank_jobs.places import ALL, check_partition_key
from rerank_jobs.secret import Secret

__all__ = [
    "ALL",
    "API_SEARCH_USD",
    "EMBEDDED",
    "Columns",
    "Context",
    "Endpoint",
    "Input",
    "Job",
    "Layout",
    "Ledger",
    "Secret",
    "check_partition_key",
    "read_api_key",
    "read_secret_headers",
    "read_store_password",
]
