"""Faults by the thousand: ``python -m tests.faults.campaign KIND --part 0/2`` prints one JSON line.

Kinds: ``singles`` breaks every store call of a first run in every way; ``later`` the same where a
generation and a library are there already; ``local`` on real folders, with real threads, planning
and merging, before and after effect; ``pairs`` two faults drawn from each of ``--count`` seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.faulty_store import Call, Fault, faults_of
from tests.faults.memory_store import MemoryStore
from tests.faults.scenario import (
    CANDIDATES,
    LOSS,
    Outcome,
    Report,
    World,
    count_calls,
    make_world,
    play,
    write_table,
)

__all__ = [
    "Stage",
    "copy_objects",
    "draw_pair",
    "list_singles",
    "open_stage",
    "run_case",
    "summarise",
]

Objects = Mapping[str, Mapping[str, tuple[bytes, float]]]
Case = dict[int, Fault]

ON_FOLDERS = {Fault.IO, Fault.LOST}


@dataclass(frozen=True, slots=True)
class Stage:
    """Where cases begin: a folder with a table, the stores' objects, the undisturbed run."""

    folder: Path
    files: Path | None
    objects: Objects
    calls: tuple[Call, ...]
    reference: Outcome


def open_stage(folder: Path, kind: str) -> Stage:
    """Run the job undisturbed once; every case begins where that began."""
    write_table(folder)
    if kind == "local":
        whole = folder / "undisturbed"
        write_table(whole)
        world = make_world(whole)
        reference = count_calls(world)
        return Stage(folder, None, {}, tuple(world.injector.calls), reference)
    files = folder / "files"
    files.mkdir()
    first = make_world(folder, files=files)
    count_calls(first)
    if kind == "later":
        objects = copy_objects(first)
        write_table(folder, CANDIDATES + 1)
    else:
        state = first.inner(first.job.state_root)
        # The salt is random: with the same one a table is planned once, whoever asks.
        objects = {state.location: {"salt": (state.read("salt"), 0.0)}}
    world = make_world(folder, files=files, objects=objects)
    reference = count_calls(world)
    return Stage(folder, files, objects, tuple(world.injector.calls), reference)


def copy_objects(world: World) -> Objects:
    """Return what a world's stores in memory hold now."""
    found = {}
    for location, store in world.stores.items():
        assert isinstance(store, MemoryStore)
        found[location] = dict(store.objects)
    return found


def run_case(stage: Stage, case: Case, allowed: int) -> Report:
    """Play one case from the stage's beginning."""
    if stage.files is not None:
        world = make_world(stage.folder, case, files=stage.files, objects=stage.objects)
        return play(world, stage.reference, allowed=allowed)
    with tempfile.TemporaryDirectory(dir=stage.folder) as folder:
        table = Path(folder) / "candidates.parquet"
        table.hardlink_to(stage.folder / "candidates.parquet")
        return play(make_world(Path(folder), case), stage.reference, allowed=allowed)


def list_singles(stage: Stage, kinds: set[Fault] | None = None) -> Iterator[tuple[Case, int]]:
    """Yield every call times every fault that it can meet, and the pairs that may be repeated.

    One fault costs nothing twice. Only where others take over what is in flight and unsealed is.
    """
    for index, call in enumerate(stage.calls):
        for fault in faults_of(call):
            if kinds is None or fault in kinds:
                yield {index: fault}, LOSS if fault is Fault.STALL else 0


def draw_pair(stage: Stage, seed: int) -> tuple[Case, int]:
    """Return two faults, the second in what is left of the run, or in the one that resumes it."""
    draw = random.Random(seed)
    first = draw.randrange(len(stage.calls))
    second = first + 1 + draw.randrange(len(stage.calls))
    kinds = list(Fault)
    return {first: draw.choice(kinds), second: draw.choice(kinds)}, 2 * LOSS


def summarise(reports: list[Report]) -> dict[str, Any]:
    """Return how cases went, in figures; the first problems in words."""
    bad = [report for report in reports if report.problems]
    repeated = [report.repeated for report in reports]
    ended = Counter(error.partition(":")[0] for report in reports for error in report.errors)
    return {
        "cases": len(reports),
        "problems": [
            f"{[f'{fault.name} at {call}' for fault, call in _met(report)]}: {report.problems}"
            f" after {report.errors}"
            for report in bad[:5]
        ],
        "failed": len(bad),
        "errors": dict(sorted(ended.items())),
        "repeated_pairs_mean": sum(repeated) / max(1, len(repeated)),
        "repeated_pairs_max": max(repeated, default=0),
    }


def _met(report: Report) -> list[tuple[Fault, Call]]:
    faults = [report.faults[index] for index in sorted(report.faults)]
    return list(zip(faults, report.met, strict=False))


def main() -> None:
    """Run a share of a kind's cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("singles", "later", "local", "pairs"))
    parser.add_argument("--part", default="0/1", help="i/n: every n-th case from the i-th")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=5000, help="how many seeds")
    arguments = parser.parse_args()
    part, parts = (int(number) for number in arguments.part.split("/"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rerank-faults-") as folder:
        stage = open_stage(Path(folder), arguments.kind)
        if arguments.kind == "pairs":
            seeds = range(arguments.first, arguments.first + arguments.count)
            cases = [draw_pair(stage, seed) for seed in seeds[part::parts]]
        else:
            kinds = ON_FOLDERS if arguments.kind == "local" else None
            cases = list(list_singles(stage, kinds))[part::parts]
        reports = [run_case(stage, case, allowed) for case, allowed in cases]
    found = {
        "kind": arguments.kind,
        "calls": len(stage.calls),
        **summarise(reports),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(found))
    sys.exit(1 if found["failed"] else 0)


if __name__ == "__main__":
    main()
