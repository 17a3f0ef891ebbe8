"""Damage to every state file: cut short, or zeroed, at each sixteenth of its length.

``python -m tests.faults.damage STAGE`` prints one JSON line. Stages: ``scoring`` a shard is half
sealed; ``between`` one of three is done; ``publishing`` everything but the commit; ``published``
two generations, a library, nothing planned.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_jobs.errors import RerankJobsError, StateError
from rerank_jobs.job import open_roots, preview_partition
from rerank_jobs.ledger.claims import SILENCE_SECONDS
from rerank_jobs.ledger.segments import decode_segment
from rerank_jobs.publish.generations import read_current
from rerank_jobs.publish.verify import verify_generation
from tests.faults.campaign import Stage, copy_objects, open_stage
from tests.faults.faulty_store import Fault
from tests.faults.memory_store import MemoryStore
from tests.faults.scenario import World, compare, in_force, make_world, read_outcome

__all__ = ["STAGES", "Damage", "Verdict", "hurt", "list_damages", "open_damaged_stage", "summarise"]

STAGES = {
    "scoring": "/00000/run-00000001.json",
    "between": "/00001/run-00000001.json",
    "publishing": "/manifest/00000000000000000001.json",
    "published": None,
}
"""The object that a run is stopped at; what it paid is sealed then."""

SIXTEENTHS = range(16)


@dataclass(frozen=True, slots=True)
class Damage:
    """What happens to a state file: from ``sixteenth`` of its length on it is gone, or zeros."""

    name: str
    zeroed: bool
    sixteenth: int

    def apply(self, data: bytes) -> bytes:
        """Return the damaged bytes."""
        kept = len(data) * self.sixteenth // 16
        return data[:kept] + bytes(len(data) - kept if self.zeroed else 0)

    def __str__(self) -> str:
        """Show the damage as a line of a report."""
        return f"{self.name} {'zeroed' if self.zeroed else 'cut'} at {self.sixteenth}/16"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How commands met a damage: errors that they ended in, and what should not have been."""

    damage: Damage
    errors: tuple[str, ...]
    problems: tuple[str, ...]
    repeated: int


def open_damaged_stage(folder: Path, name: str) -> tuple[Stage, World]:
    """Return an undisturbed run as reference, and a world that stands where ``name`` says."""
    stage = open_stage(folder, "later" if name == "published" else "singles")
    stop = STAGES[name]
    faults = {}
    if stop is not None:
        puts = [call.method == "put_if_absent" and call.name.endswith(stop) for call in stage.calls]
        faults = {puts.index(True): Fault.IO}
    world = make_world(folder, faults, files=stage.files, objects=stage.objects)
    with in_force(world):
        error = world.run()
    assert (error is None) == (stop is None), error
    return stage, world


def list_damages(world: World) -> Iterator[Damage]:
    """Yield every damage of every state file that changes it; of work files, one shard's."""
    state = world.inner(world.job.state_root)
    for entry in state.entries():
        if "/work." in entry.name and "/00002/" not in entry.name:
            continue
        data = state.read(entry.name)
        for zeroed in (False, True):
            for sixteenth in SIXTEENTHS:
                damage = Damage(entry.name, zeroed, sixteenth)
                if damage.apply(data) != data:
                    yield damage


def hurt(stage: Stage, before: World, damage: Damage) -> Verdict:
    """Damage a file, try every command, run to the end, and judge.

    A command may give the right result, or end in an error of ours that names the file. Only what
    a damaged segment held may be paid again.
    """
    world = make_world(stage.folder, files=stage.files, objects=copy_objects(before))
    world.bill.pairs.update(before.bill.pairs)
    world.bill.requests = before.bill.requests
    world.now = before.now
    state = world.inner(world.job.state_root)
    assert isinstance(state, MemoryStore)
    data = state.read(damage.name)
    held = _count_pairs(damage.name, data)
    state.put(damage.name, damage.apply(data))
    errors: list[str] = []
    problems: list[str] = []
    with in_force(world):
        for command in (_plan, _verify):
            _try(command, world, damage, errors, problems)
        finished = _finish(world, damage, errors, problems)
        if finished:
            _try(_verify, world, damage, errors, problems)
    if finished and not problems:
        try:
            found = read_outcome(world)
        except StateError as error:  # of the library, which nothing has needed yet
            errors.append(f"library StateError: {error}")
            problems += [] if damage.name in str(error) else [f"does not name the file: {error}"]
        else:
            problems += compare(found, stage.reference, world.bill, held, lost=held)
    return Verdict(damage, tuple(errors), tuple(problems), world.bill.repeated)


def _count_pairs(name: str, data: bytes) -> int:
    if not name.endswith(".arrow") or "/seg/" not in name:
        return 0
    keys: list[Any] = decode_segment(data).column("passage_keys").to_pylist()
    return sum(len(one) for one in keys)


def _plan(world: World) -> None:
    preview_partition(world.job)


def _verify(world: World) -> None:
    roots = open_roots(world.job)
    current = read_current(roots.state, "_all")
    if current is not None:
        found = verify_generation(world.job, roots, current)
        if found.problems:
            raise AssertionError(found.problems[0])


def _try(
    command: Any, world: World, damage: Damage, errors: list[str], problems: list[str]
) -> None:
    try:
        command(world)
    except RerankJobsError as error:
        errors.append(f"{command.__name__} {type(error).__name__}: {error}")
        if damage.name not in str(error) and "/salt" not in damage.name:
            problems.append(f"does not name {damage.name}: {error}")
    except Exception as failure:  # noqa: BLE001 - that is what is looked for
        problems.append(f"{command.__name__} untyped {type(failure).__name__}: {failure}")


def _finish(world: World, damage: Damage, errors: list[str], problems: list[str]) -> bool:
    """Run the job, and again after a silence; say whether it ended well."""
    for _ in range(3):
        try:
            error = world.run()
        except Exception as failure:  # noqa: BLE001 - that is what is looked for
            problems.append(f"run untyped {type(failure).__name__}: {failure}")
            return False
        if error is None:
            return True
        errors.append(f"run {error}")
        world.wait(SILENCE_SECONDS + 1)
    if damage.name not in str(error):
        problems.append(f"run does not name {damage.name}: {error}")
    return False


def summarise(verdicts: list[Verdict]) -> dict[str, Any]:
    """Return how commands met all damages, in figures and in the errors that files led to."""
    bad = [verdict for verdict in verdicts if verdict.problems]
    told: Counter[str] = Counter()
    for verdict in verdicts:
        kind = verdict.damage.name.rpartition("/")[2][:9]
        told.update({f"{kind}: {error.partition(':')[0]}" for error in verdict.errors})
    return {
        "cases": len(verdicts),
        "failed": len(bad),
        "problems": [f"{verdict.damage}: {verdict.problems}" for verdict in bad[:10]],
        "repeated_pairs_max": max((verdict.repeated for verdict in verdicts), default=0),
        "told": dict(sorted(told.items())),
    }


def main() -> None:
    """Damage every file of a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--every", type=int, default=1, help="only every n-th damage")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rerank-faults-") as folder:
        stage, world = open_damaged_stage(Path(folder), arguments.stage)
        damages = list(list_damages(world))[:: arguments.every]
        verdicts = [hurt(stage, world, damage) for damage in damages]
    found = {"stage": arguments.stage, **summarise(verdicts)}
    print(json.dumps({**found, "seconds": round(time.monotonic() - started, 1)}))
    sys.exit(1 if found["failed"] else 0)


if __name__ == "__main__":
    main()
