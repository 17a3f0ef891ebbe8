"""What Airflow asks of an installed provider: its names, and the form of its connection."""

from __future__ import annotations

from typing import Any

__all__ = ["CONNECTION_TYPE", "get_provider_info"]

CONNECTION_TYPE = "openrouter"

_HOOK = "rerank_jobs.airflow.hook"


def get_provider_info() -> dict[str, Any]:
    """Return what ``airflow providers`` and the connection form show; it imports nothing heavy.

    Contract: ``airflow/provider_info.schema.json`` of Airflow 3.3, and the form's fields as
    ``ProvidersManager`` reads them.
    """
    return {
        "package-name": "rerank-jobs",
        "name": "Rerank jobs",
        "description": "Rerank tables of search results through OpenRouter and other rerank APIs.",
        "hooks": [{"integration-name": "OpenRouter", "python-modules": [_HOOK]}],
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": f"{_HOOK}.OpenRouterHook",
                "hook-name": "OpenRouter",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "port", "schema", "extra"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {
                        "host": "https://openrouter.ai/api/v1",
                        "password": "sk-or-v1-...",
                        "model": "cohere/rerank-v3.5",
                        "app_url": "https://search.example.com",
                        "app_title": "Shop search",
                    },
                },
                "conn-fields": {
                    "model": _field(
                        "Model",
                        "For job files without endpoint.model.",
                        {"type": ["string", "null"]},
                    ),
                    "requests_per_minute": _field(
                        "Requests per minute",
                        "For job files without endpoint.requests_per_minute.",
                        {"type": ["integer", "null"], "minimum": 1},
                    ),
                    "app_url": _field(
                        "Attribution: URL",
                        "Sent as HTTP-Referer by job files without endpoint.app.",
                        {"type": ["string", "null"]},
                    ),
                    "app_title": _field(
                        "Attribution: title",
                        "Sent as X-Title by job files without endpoint.app.",
                        {"type": ["string", "null"]},
                    ),
                },
            }
        ],
    }


def _field(label: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": schema}
