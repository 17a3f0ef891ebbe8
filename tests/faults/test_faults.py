"""Store faults: the published table is the undisturbed one, or the run ends in a typed error.

Whatever call fails, before or after it took effect, running the job again ends with the bytes,
manifest and library of a run that nothing disturbed, and nothing sealed is paid twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import Stage, draw_pair, list_singles, open_stage, run_case

SECONDS = 900
PAIRS = 600
"""A part of the 5,000 that ``python -m tests.faults.campaign pairs --count 5000`` draws."""
WORKERS = 2


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Return the beginning of a first run in memory."""
    return open_stage(tmp_path_factory.mktemp("stage"), "singles")


def test_single_faults_spread_over_a_run_change_nothing(stage: Stage) -> None:
    """Of every 80th call and fault of a run, the outcome is the undisturbed one."""
    cases = list(list_singles(stage))[::80]
    assert len(cases) >= 10
    problems = [run_case(stage, case, allowed).problems for case, allowed in cases]
    assert [found for found in problems if found] == []


def test_pairs_of_faults_change_nothing(stage: Stage) -> None:
    """Of six seeded pairs of faults, the outcome is the undisturbed one."""
    drawn = [draw_pair(stage, seed) for seed in range(6)]
    problems = [run_case(stage, case, allowed).problems for case, allowed in drawn]
    assert [found for found in problems if found] == []


def test_a_scenario_that_lost_a_score_is_told(stage: Stage) -> None:
    """The judge is not blind: against another reference the same run has problems."""
    forged = Stage(
        stage.folder,
        stage.files,
        stage.objects,
        stage.calls,
        type(stage.reference)(**{**_fields(stage.reference), "scores": (0.5,)}),
    )
    assert any("scores differ" in problem for problem in run_case(forged, {}, 0).problems)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["singles", "later", "local"])
def test_every_single_fault_changes_nothing(kind: str) -> None:
    """Every store call of a job of three shards, broken in every way that it can be.

    Also where an earlier generation and a library are there; and on real folders before and after
    effect. None differs silently, none ends in an error without a type, and only who is overtaken
    has something paid twice.
    """
    found = run_campaign(kind)
    assert sum(part["cases"] for part in found) >= 200
    assert [part["problems"] for part in found] == [[]] * WORKERS


@pytest.mark.slow
def test_hundreds_of_pairs_of_faults_change_nothing() -> None:
    """Two faults of one seed, in one run or in the run that resumes it, on a simulated clock."""
    found = run_campaign("pairs", "--count", str(PAIRS))
    assert sum(part["cases"] for part in found) == PAIRS
    assert [part["problems"] for part in found] == [[]] * WORKERS


def run_campaign(kind: str, *options: str) -> list[dict[str, Any]]:
    """Run a campaign in some processes side by side and return their reports."""
    command = [sys.executable, "-m", "tests.faults.campaign", kind, *options]
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen(
            [*command, "--part", f"{part}/{WORKERS}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        for part in range(WORKERS)
    ]
    try:
        reports = [json.loads(process.communicate(timeout=SECONDS)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for report in reports:
        print(report)
    return reports
