"""The Airflow plugin: reports of runs, served by the api-server under ``/rerank``.

Every Airflow process loads plugins, so the application is made when the first request comes.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from airflow.plugins_manager import AirflowPlugin

__all__ = ["RerankPlugin"]

_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def _serve(scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
    await _make_app()(scope, receive, send)


@functools.cache
def _make_app() -> Any:
    from rerank_jobs.airflow.report_app import make_app

    return make_app()


class RerankPlugin(AirflowPlugin):
    """What Airflow asks a plugin for; nothing heavy is imported for it."""

    name = "rerank"
    fastapi_apps = [  # noqa: RUF012 - Airflow declares it as it is
        {"app": _serve, "url_prefix": "/rerank", "name": "Rerank reports"}
    ]
