"""The command line: ``rerank-jobs``."""

from rerank_jobs.cli.main import main

__all__ = ["main"]
