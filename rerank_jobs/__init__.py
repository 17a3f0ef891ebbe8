"""Rerank tables of search results: priced first, paid once, resumable, published whole.

Importing this package costs nothing: it loads no third-party module, and what readers of published
tables use is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_jobs.publish.snapshots import Snapshot
    from rerank_jobs.reading import read_current, read_current_table

__version__ = "0.1.0"

__all__ = ["Snapshot", "__version__", "read_current", "read_current_table"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name == "Snapshot":
        from rerank_jobs.publish.snapshots import Snapshot

        return Snapshot
    if name in {"read_current", "read_current_table"}:
        from rerank_jobs import reading

        return getattr(reading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
