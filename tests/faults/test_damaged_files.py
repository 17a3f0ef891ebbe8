"""Damaged state files: the right table all the same, or one line that names the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.damage import STAGES, Damage, hurt, list_damages, open_damaged_stage


def test_some_damages_change_no_table(tmp_path: Path) -> None:
    """One damage of each kind of file of a run that was stopped: the outcome is undisturbed.

    Only what a damaged segment held is paid again.
    """
    stage, world = open_damaged_stage(tmp_path, "between")
    kinds: dict[str, Damage] = {}
    for damage in list_damages(world):
        folder, _, file = damage.name.rpartition("/")
        kinds.setdefault(f"{folder.rpartition('/')[2]} {file[:9]}", damage)
    assert len(kinds) >= 12
    verdicts = [hurt(stage, world, damage) for damage in kinds.values()]
    assert [verdict for verdict in verdicts if verdict.problems] == []


def test_a_damaged_segment_costs_what_it_held(tmp_path: Path) -> None:
    """Of a shard that is not finished yet, a zeroed segment's pairs are paid again, no others."""
    stage, world = open_damaged_stage(tmp_path, "scoring")
    segments = [damage for damage in list_damages(world) if "/seg/" in damage.name]
    verdict = hurt(stage, world, segments[-1])
    assert verdict.problems == ()
    assert verdict.repeated == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_no_damage_changes_a_table(name: str) -> None:
    """State files cut and zeroed at sixteenths of their lengths, at four points of a job.

    Every 7th damage; ``python -m tests.faults.damage`` without ``--every`` does all of them.
    """
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.faults.damage", name, "--every", "7"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env=environment, timeout=900, check=False
    )
    found: dict[str, Any] = json.loads(done.stdout)
    print(found)
    assert found["problems"] == []
    assert found["cases"] > 40
