"""Scratch folders: gone with their process, and never another living one's."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rerank_jobs.storage import scratch_folder

DIES_INSIDE = """
import os, sys
from rerank_jobs.storage import scratch_folder
with scratch_folder(sys.argv[1]) as folder:
    (folder / "text").write_text("canary")
    os._exit(9)
"""


def test_a_folder_is_empty_private_and_removed(tmp_path: Path) -> None:
    """Each user gets a folder of its own, which is gone afterwards, also after an error."""
    with scratch_folder(str(tmp_path)) as one, scratch_folder(str(tmp_path)) as two:
        assert one != two
        assert [path.name for path in one.iterdir()] == ["lock"]
    with pytest.raises(ZeroDivisionError), scratch_folder(str(tmp_path)) as three:
        (three / "text").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Text in the scratch folder of a dead process does not outlive the next use."""
    subprocess.run([sys.executable, "-c", DIES_INSIDE, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "text").exists()
    with scratch_folder(str(tmp_path)) as mine:
        assert list(tmp_path.iterdir()) == [mine]


def test_a_folder_taken_for_a_leftover_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between creating and locking another process may remove a folder: a new one is used."""
    flock = fcntl.flock
    taken: list[Path] = []

    def take_first(lock: object, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not taken:
            (folder,) = tmp_path.iterdir()
            taken.append(folder)
            shutil.rmtree(folder)
        flock(lock, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", take_first)
    with scratch_folder(str(tmp_path)) as folder:
        assert folder.is_dir()
        assert folder not in taken


def test_for_a_remote_state_the_system_has_the_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the state root is no folder, scratch space is local temporary space."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder("s3://bucket/state") as folder:
        assert folder.is_relative_to(tmp_path)
