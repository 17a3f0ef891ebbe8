"""Rerank tables of search results: priced first, paid once, resumable, published whole.

Importing this package costs nothing: it loads no third-party module.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
