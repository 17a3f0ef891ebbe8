"""Signals: whatever a command is doing, it ends with code 130 and one line."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import duckdb
import pytest

from rerank_jobs.cli import run
from tests.unit.cli.kit import call

DEADLINE = 30.0


def signal_reader(fifo: Path, number: int, ended: threading.Event) -> None:
    """Send this process the signal once it waits for what the FIFO will say, which is nothing."""
    while True:
        try:
            writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            time.sleep(0.001)
            continue
        os.kill(os.getpid(), number)
        ended.wait(DEADLINE)  # until then the reader waits: an end of file would race the signal
        os.close(writer)
        return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_is_sent_ends_with_code_130(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """SIGINT and SIGTERM while the job is read: code 130, one line, and the old handlers again."""
    fifo = tmp_path / "job.yaml"
    os.mkfifo(fifo)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    helper = threading.Thread(target=signal_reader, args=(fifo, number, ended := threading.Event()))
    helper.start()
    outcome = call(capsys, "run", fifo)
    ended.set()
    helper.join()
    outcome.assert_says(130, "interrupted")
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_during_a_query_ends_with_code_130(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What DuckDB makes of a signal while it calls back, an error of its own, is no crash."""

    def query(_: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise duckdb.InvalidInputException("counting the rows failed") from None
        return 0

    monkeypatch.setattr(run, "run_job", query)
    call(capsys, "run", tmp_path / "job.yaml").assert_says(130, "interrupted")
