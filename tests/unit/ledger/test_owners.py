"""Owners: who is the same, and who is surely gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rerank_jobs.ledger.owners import (
    describe_owner,
    is_gone,
    make_airflow_owner,
    make_process_owner,
    same_owner,
)


def test_a_process_is_the_same_owner_for_as_long_as_it_lives() -> None:
    """Asked twice, a process is the same owner, and it is not gone."""
    assert same_owner(make_process_owner(), make_process_owner())
    assert not is_gone(make_process_owner())
    assert describe_owner(make_process_owner()).startswith(f"process {os.getpid()} on ")


def test_tries_of_one_task_instance_are_one_owner_others_are_not() -> None:
    """A retry is the same owner; another map index, task, run or DAG is another."""
    mine = ("dag", "run", "task", 3)
    assert same_owner(make_airflow_owner(*mine), make_airflow_owner(*mine))
    for other in (("d", *mine[1:]), ("dag", "r", "task", 3), ("dag", "run", "t", 3)):
        assert not same_owner(make_airflow_owner(*mine), make_airflow_owner(*other))
    assert not same_owner(make_airflow_owner(*mine), make_airflow_owner("dag", "run", "task", 4))


@pytest.mark.parametrize("place", ["host", "boot", "pids"])
def test_a_process_elsewhere_is_never_surely_gone(place: str) -> None:
    """What this process cannot see (a host, a boot, a container) it does not call dead."""
    assert is_gone({**make_process_owner(), "started": "1"})
    assert not is_gone({**make_process_owner(), "started": "1", place: "elsewhere"})


def test_a_pid_that_was_given_to_another_process_is_gone() -> None:
    """The start time tells a process from a later one with its number."""
    assert is_gone({**make_process_owner(), "started": "1"})


def test_a_dead_process_that_nobody_waited_for_is_gone() -> None:
    """A zombie has its number still, but does nothing any more."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with open(f"/proc/{child.pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
        started = stat.read().rpartition(")")[2].split()[19]
    owner = {**make_process_owner(), "pid": child.pid, "started": started}
    assert not is_gone(owner)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(owner)
    child.communicate()


def test_a_task_is_never_surely_gone() -> None:
    """Airflow's tasks may run on any host: only silence tells."""
    assert not is_gone(make_airflow_owner("dag", "run", "task", 0))
    assert not is_gone({})
