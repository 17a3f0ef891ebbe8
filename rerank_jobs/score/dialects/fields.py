"""What a job's endpoint asks of its dialect: more body fields, and lists kept whole. Pure."""

from __future__ import annotations

import json
from typing import Any

import orjson

from rerank_jobs.config import Endpoint
from rerank_jobs.errors import JobError
from rerank_jobs.score.dialects import DIALECTS

__all__ = ["body_fields", "ranks_listwise"]


def body_fields(endpoint: Endpoint) -> dict[str, Any]:
    """Return further top-level fields of each request: only documented ones, ready to be sent.

    For OpenRouter these are ``provider``, ``user``, ``session_id`` and ``trace``, for the others
    ``endpoint.options``.

    Raises:
        JobError: a key that the dialect does not take, or a value that JSON cannot hold.

    """
    dialect = DIALECTS[endpoint.dialect]
    routing = {
        "provider": None if endpoint.provider is None else endpoint.provider.to_body(),
        "user": endpoint.user,
        "session_id": endpoint.session_id,
        "trace": endpoint.trace,
    }
    fields = {name: value for name, value in routing.items() if value is not None}
    if fields and not dialect.routes:
        raise JobError(
            f"endpoint.{next(iter(fields))}: the dialect {dialect.name} does not take it: leave it"
            " out"
        )
    for name in endpoint.options:
        if name not in dialect.options:
            known = ", ".join(sorted(dialect.options)) or "none"
            raise JobError(
                f"endpoint.options.{name}: the dialect {dialect.name} takes no such option"
                f" (it takes: {known})"
            )
    fields |= endpoint.options
    for name, value in fields.items():
        _check_json(endpoint, name, value)
    return fields


def ranks_listwise(endpoint: Endpoint) -> bool:
    """Say whether a score depends on the list: by the job's word, else by dialect and model."""
    if endpoint.listwise is not None:
        return endpoint.listwise
    return DIALECTS[endpoint.dialect].listwise(endpoint.model)


def _check_json(endpoint: Endpoint, name: str, value: object) -> None:
    try:
        orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_DATETIME)
        json.dumps(value, allow_nan=False)  # orjson writes null for a number that is none
    except (TypeError, ValueError):
        where = f"options.{name}" if name in endpoint.options else name
        raise JobError(
            f"endpoint.{where}: holds a value that JSON has no form for: put dates and the like in"
            " quotes"
        ) from None
