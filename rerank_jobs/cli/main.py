"""Arguments in, exit code out: every error that is ours becomes one line on standard error."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from rerank_jobs.cli.parser import build_parser
from rerank_jobs.errors import RerankJobsError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    module = importlib.import_module(f"rerank_jobs.cli.{arguments.module}")
    command: Callable[[argparse.Namespace], int] = getattr(module, arguments.function)
    try:
        return command(arguments)
    except RerankJobsError as error:
        print(f"rerank-jobs: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "rerank-jobs: interrupted: what is paid is sealed; run again to go on", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        # The reader of our output has gone: nothing more can be said to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"rerank-jobs: {where}{error.strerror or type(error).__name__}: what is paid is sealed;"
            " mend it and run again",
            file=sys.stderr,
        )
        return 3
