"""The endpoint inside this process, for a job that asks for it: the way there, and its identity.

Its packages are an extra; they are imported only where a job names ``url: embedded``.
"""

from __future__ import annotations

import functools
from typing import Any

import httpx

from rerank_jobs.config import Job
from rerank_jobs.plan.identity import scorer_id

__all__ = ["identify_scorer", "name_model", "open_transport"]


def identify_scorer(job: Job) -> str:
    """Return the id under which the job's scores are kept.

    Raises:
        JobError: the endpoint is embedded and its packages are not installed.

    """
    version = ""
    if job.endpoint.embedded:
        from rerank_jobs.endpoint.scorer import SCORER_VERSION

        version = SCORER_VERSION
    return scorer_id(job.endpoint, version)


def name_model(job: Job) -> str:
    """Return the model whose scores are the job's: the embedded scorer's own name where it is used.

    Raises:
        JobError: the endpoint is embedded and its packages are not installed.

    """
    if not job.endpoint.embedded:
        return job.endpoint.model
    from rerank_jobs.endpoint.scorer import EmbeddedScorer

    return EmbeddedScorer.model


def open_transport(job: Job) -> httpx.AsyncBaseTransport | None:
    """Return the way to the endpoint inside this process, ``None`` for the network."""
    if not job.endpoint.embedded:
        return None
    return httpx.ASGITransport(_load_app())


@functools.cache
def _load_app() -> Any:
    """Return the endpoint, loaded once: it bills nothing and limits nothing."""
    from rerank_jobs.endpoint.app import create_app

    return create_app(price_per_search_usd=0.0)
