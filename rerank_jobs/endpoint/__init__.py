"""An embedded rerank endpoint: OpenRouter's wire format, an offline scorer, no bill.

``app.create_app`` makes the ASGI app, ``server.serve`` runs it on a port. A stand-in for trying
things out and for tests: its scores have the API's range but not its quality or calibration.

Importing it raises JobError where the extra ``rerank-jobs[embedded]`` is not installed, so the
rest of the package imports it only where it is used.
"""

from __future__ import annotations

import importlib.util

from rerank_jobs.errors import JobError

__all__: list[str] = []

_PACKAGES = {
    "numpy": "numpy",
    "safetensors": "safetensors",
    "starlette": "starlette",
    "Stemmer": "PyStemmer",
    "tokenizers": "tokenizers",
    "uvicorn": "uvicorn",
    "wordllama": "wordllama",
}
"""Module to look for, and the distribution that has it."""


def _require_extra() -> None:
    missing = [name for module, name in _PACKAGES.items() if not importlib.util.find_spec(module)]
    if missing:
        message = (
            f"the embedded endpoint needs {', '.join(missing)}: pip install 'rerank-jobs[embedded]'"
        )
        raise JobError(message)


_require_extra()
