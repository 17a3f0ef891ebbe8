"""Processes of a cluster are ended whole, however they or their owner end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.cluster import programs
from tests.cluster.processes import ROOT, Family, end_children, kill_tree, read_children

SECONDS = 20.0

TREE = """
import os, pathlib, subprocess, sys, time
sleep = subprocess.Popen(["sleep", "300"], process_group=0)
pathlib.Path(sys.argv[1]).write_text(str(sleep.pid))
time.sleep(300)
"""

OWNER = """
import os, pathlib, sys, time
from tests.cluster.processes import Family
folder = pathlib.Path(sys.argv[1])
family = Family(folder / "pids", folder)
family.watch(remove=folder)
family.start("tree", [sys.executable, "-c", sys.argv[2], sys.argv[3]], os.environ, wave=0)
time.sleep(300)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    """Return a family without processes; it is ended afterwards."""
    family = Family(tmp_path / "pids", tmp_path)
    yield family
    family.end()


def start_tree(family: Family, tmp_path: Path) -> int:
    """Start a process with a child in a group of its own; return that one's pid."""
    told = tmp_path / "child"
    family.start("tree", [sys.executable, "-c", TREE, str(told)], os.environ, wave=0)
    return read_pid(told)


def read_pid(path: Path) -> int:
    wait(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_tree_is_killed_with_members_that_left_its_group(family: Family, tmp_path: Path) -> None:
    """Head and child are gone when the call returns."""
    child = start_tree(family, tmp_path)
    assert kill_tree(family.children) == 2
    assert is_gone(child)
    assert is_gone(family.children[0].pid)


def test_what_a_dead_head_left_is_found_by_its_session(family: Family, tmp_path: Path) -> None:
    """Nobody descends from a dead head any more, and yet its child ends with the family."""
    child = start_tree(family, tmp_path)
    os.kill(family.children[0].pid, signal.SIGKILL)
    wait(lambda: is_gone(family.children[0].pid))
    assert not is_gone(child)
    end_children(read_children(family.record), grace=0.1)
    assert is_gone(child)


def test_a_process_that_ends_by_itself_is_told_with_its_output(family: Family) -> None:
    """The message names the process and holds the end of its log."""
    family.start("broken", ["sh", "-c", "echo no such thing; exit 3"], os.environ, wave=0)
    wait(lambda: is_gone(family.children[0].pid))
    with pytest.raises(RuntimeError, match=r"broken ended with 3:\nno such thing"):
        family.check()


def test_a_killed_owner_leaves_neither_process_nor_folder(tmp_path: Path) -> None:
    """SIGKILL of the owner is noticed by the reaper, which ends the tree and removes the folder."""
    folder, told = tmp_path / "cluster", tmp_path / "child"
    folder.mkdir()
    command = [sys.executable, "-c", OWNER, str(folder), TREE, str(told)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment) as owner:
        child = read_pid(told)
        owner.kill()
    wait(lambda: is_gone(child) and not folder.exists())


def test_missing_programs_are_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where neither is there, one message says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "POSTGRES_HOMES", ())
    with pytest.raises(programs.MissingProgram, match=r"install postgresql\).*redis-server\)"):
        programs.find_programs()
