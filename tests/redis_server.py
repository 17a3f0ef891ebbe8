"""A Redis server of a test's own, on a free port of this machine; ended by its process."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def run_redis(folder: Path, port: int | None = None, *options: str) -> Iterator[int]:
    """Run a server that keeps nothing on disk; yield its port once it answers.

    Skips the test where the program or the package for it is not installed.
    """
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not on this machine: apt-get install redis-server")
    pytest.importorskip("redis", reason="the package redis is not installed")
    port = port or find_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield port
        finally:
            process.kill()


def find_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when the port takes connections; a server that ended is an error."""
    for _ in range(500):
        assert process.poll() is None, "redis-server ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    raise AssertionError("redis-server does not answer")
