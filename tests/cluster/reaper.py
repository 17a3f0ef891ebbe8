"""End a cluster whose owner is gone: ``python -m tests.cluster.reaper RECORD [FOLDER]``.

Waits for the end of its standard input, which comes when the owner ends, however it does. Then it
ends what the record names and is still there, and removes the folder.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

from tests.cluster.processes import end_children, read_children

GRACE_SECONDS = 3.0


def main(record: str, *folders: str) -> None:
    """Wait, end, remove."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    if Path(record).exists():
        end_children(read_children(Path(record)), grace=GRACE_SECONDS)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
