"""Arguments in, exit code out: every error that is ours becomes one line on standard error."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rerank_jobs.cli.parser import build_parser
from rerank_jobs.errors import RerankJobsError

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    SIGTERM ends it as Ctrl-C does: with code 130 at any moment, and one line.
    """
    arguments = build_parser().parse_args(argv)
    module = importlib.import_module(f"rerank_jobs.cli.{arguments.module}")
    command: Callable[[argparse.Namespace], int] = getattr(module, arguments.function)
    with _notice_signals() as signals:
        try:
            return command(arguments)
        except RerankJobsError as error:
            print(f"rerank-jobs: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            return _tell_interrupted()
        except BrokenPipeError:
            # The reader of our output has gone: nothing more can be said to it, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            print(
                f"rerank-jobs: {where}{error.strerror or type(error).__name__}: what is paid is"
                " sealed; mend it and run again",
                file=sys.stderr,
            )
            return 3
        except Exception:  # DuckDB's own words for a signal that came during a query
            if not signals:
                raise
            return _tell_interrupted()


def _tell_interrupted() -> int:
    print("rerank-jobs: interrupted: what is paid is sealed; run again to go on", file=sys.stderr)
    return INTERRUPTED


@contextlib.contextmanager
def _notice_signals() -> Iterator[list[int]]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt; yield the list of those that came."""
    came: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        with contextlib.suppress(ValueError):  # elsewhere than in the main thread
            for number in taken:
                signal.signal(number, interrupt)
        yield came
    finally:
        with contextlib.suppress(ValueError):
            for number in taken:
                signal.signal(number, before[number])
