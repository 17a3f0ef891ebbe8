"""Runs killed at named phases and random instants: nothing sealed is lost, the bytes are the same.

What is checked stands in ``attack.py``; the harness is there to be used by hand too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.harness import attack_jobs, show
from tests.crash.phases import PHASES

pytestmark = pytest.mark.slow


def test_sixty_kills_lose_nothing_that_was_sealed(tmp_path: Path) -> None:
    """60 SIGKILLs over 15 jobs, 3 in each phase: what is promised of them holds for each."""
    report = attack_jobs(tmp_path, jobs=15, kills=60, per_phase=3)
    assert report.problems == [], show(report)
    assert len(report.kills) >= 60
    assert min(report.count_phases()[phase] for phase in PHASES) >= 3, show(report)


def test_kills_with_the_state_on_s3(tmp_path: Path) -> None:
    """20 SIGKILLs over 5 jobs whose state lies in a bucket: the same holds."""
    report = attack_jobs(tmp_path, jobs=5, kills=20, seed=2, s3=True)
    assert report.problems == [], show(report)
    assert len(report.kills) >= 20


def test_interrupted_runs_repeat_nothing(tmp_path: Path) -> None:
    """After SIGTERM and SIGINT at random instants the code is 130 and no passage is paid twice."""
    report = attack_jobs(tmp_path, jobs=4, kills=16, seed=3, kind="TERM")
    assert report.problems == [], show(report)
    assert len(report.kills) >= 16


def test_stopped_and_continued_runs_end_as_if_they_had_not(tmp_path: Path) -> None:
    """SIGSTOP and SIGCONT at random instants change no byte and repeat no passage."""
    report = attack_jobs(tmp_path, jobs=3, kills=9, seed=4, kind="STOP")
    assert report.problems == [], show(report)
    assert len(report.kills) >= 9
