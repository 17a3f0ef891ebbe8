"""Kills real runs at seeded instants, restarts them, and checks what a user was promised.

    python -m tests.crash.harness --jobs 40 --kills 200 --seed 1
    python -m tests.crash.harness --jobs 40 --kills 200 --state s3
    python -m tests.crash.harness --jobs 10 --kills 50 --signal TERM

Each job runs undisturbed and under attack against one counting server; both must end the same.
Exit code 0: everything held.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import queue
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.attack import Attack, Kill, Site
from tests.crash.jobs import draw_case
from tests.crash.phases import ANY, FIRST, PHASES, SCORING, KillPoint
from tests.s3_server import serve_s3
from tests.unit.cli.kit import serve

__all__ = ["Report", "attack_jobs", "main", "show"]

SERVER = ("--scorer", "instant", "--latency-ms", "30")
LANES = 2
"""Jobs at a time, each lane with a counting server of its own."""

SIGNALS = {
    "KILL": (signal.SIGKILL,),
    "TERM": (signal.SIGTERM, signal.SIGINT),
    "STOP": (signal.SIGSTOP,),
}

MOST_EVENTS = {FIRST: 12, "during a seal": 3, "between link and folder fsync": 3, "merge": 1}
MOST_EVENTS |= {"part": 2, "done": 2, "publish": 6, "compaction": 4, "retirement": 6}
"""Up to which event of its phase the first kill of a job waits."""


@dataclass
class Report:
    """What a whole attack came to."""

    jobs: int = 0
    runs: int = 0
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, attack: Attack | None) -> None:
        """Add a job, unless it was not begun."""
        if attack is None:
            return
        self.jobs += 1
        self.runs += attack.runs
        self.kills += attack.kills
        self.problems += attack.problems

    def count_phases(self) -> Counter[str]:
        """Return kills by phase."""
        return Counter(kill.phase for kill in self.kills)


def attack_jobs(
    folder: Path,
    *,
    jobs: int,
    kills: int,
    per_phase: int = 0,
    seed: int = 1,
    kind: str = "KILL",
    s3: bool = False,
    minutes: float = math.inf,
    observe: Callable[[Attack], None] = lambda _attack: None,
) -> Report:
    """Attack jobs until so many kills struck, and so many in each phase; at most twice the jobs.

    No job starts after so many ``minutes``. ``observe`` is told each job when it is over.
    """
    report, each, deck = Report(), -(-kills // jobs), _deal(seed)
    with contextlib.ExitStack() as stack:
        environment: dict[str, str] = {}
        bucket = None
        if s3:
            server = stack.enter_context(serve_s3())
            environment, bucket = server.env, server.make_bucket("crash")
        urls = queue.Queue[str]()
        for _ in range(LANES):
            urls.put(stack.enter_context(serve(*SERVER)))

        end = time.monotonic() + 60 * minutes

        def attack(number: int, hand: Sequence[str]) -> Attack | None:
            if time.monotonic() > end:
                return None
            place, remote = folder / f"job{number}", f"{bucket}/job{number}"
            place.mkdir(parents=True)
            output = remote if bucket and number % 2 else str(place)
            state, url = remote if bucket else str(place), urls.get()
            draw = random.Random(f"{seed}-{number}-kills")
            site = Site(place, output, state, url, environment)
            one = Attack(draw_case(number, seed), site, draw)
            try:
                one.go(_draw_points(draw, hand), SIGNALS[kind])
            finally:
                urls.put(url)
            observe(one)
            return one

        pool = stack.enter_context(ThreadPoolExecutor(LANES))
        hands = [list(itertools.islice(deck, each)) for _ in range(jobs)]
        for done in pool.map(attack, range(jobs), hands):
            report.add(done)
        while jobs <= report.jobs < 2 * jobs and (
            lacking := _list_lacking(report, kills, per_phase, kind)
        ):
            hand = list(itertools.islice(itertools.cycle(lacking), each))
            more = range(report.jobs, report.jobs + LANES)
            for done in pool.map(attack, more, [hand] * LANES):
                report.add(done)
            if time.monotonic() > end:
                break
    return report


def _deal(seed: int) -> Iterator[str]:
    """Yield phases without end, each as often as the others, and every third at any instant."""
    draw = random.Random(f"{seed}-deck")
    while True:
        hand = [*PHASES, *[ANY] * (len(PHASES) // 2)]
        draw.shuffle(hand)
        yield from hand


def _list_lacking(report: Report, kills: int, per_phase: int, kind: str) -> list[str]:
    """Return the phases that still want kills."""
    counts = report.count_phases()
    lacking = [phase for phase in PHASES if counts[phase] < per_phase and kind == "KILL"]
    return lacking or ([SCORING, "during a seal", "merge"] if counts.total() < kills else [])


def _draw_points(draw: random.Random, cards: Sequence[str]) -> list[KillPoint]:
    """Return kills in the order in which a job comes to them.

    A phase that a job was killed in once has fewer events left.
    """
    ranked = [(draw.uniform(0, 2) if card == ANY else PHASES[card].rank, card) for card in cards]
    points, seen = [], Counter[str]()
    for _, phase in sorted(ranked):
        rare = seen[phase] or draw.random() < 0.5
        most = 1 if rare else MOST_EVENTS.get(phase, 1)
        seen[phase] += 1
        delay = 0.0
        if phase == SCORING or (phase == FIRST and draw.random() < 0.3):
            delay = draw.uniform(0, 0.4 if phase == SCORING else 0.05)
        points.append(KillPoint(phase, draw.randint(1, most), delay))
    return points


def show(report: Report) -> str:
    """Return the figures as text."""
    lines = [f"{len(report.kills)} kills over {report.jobs} jobs, {report.runs} runs"]
    lines += [f"  {phase:32}{count:5}" for phase, count in report.count_phases().most_common()]
    if report.kills:
        lost, usd = [k.lost for k in report.kills], [k.lost_usd for k in report.kills]
        bounds = [kill.bound for kill in report.kills]
        share = max((k.lost / k.bound for k in report.kills if k.bound), default=0)
        lines.append(
            f"passages repeated per kill: mean {statistics.mean(lost):.1f}, maximum {max(lost)}"
            f" (bound {min(bounds)} to {max(bounds)} by job; at most {share:.0%} of it)"
        )
        lines.append(
            f"dollars repeated per kill: mean ${statistics.mean(usd):.6f}, maximum ${max(usd):.6f}"
            f" (bound up to ${max(kill.bound_usd for kill in report.kills):.6f})"
        )
    lines += [f"problems: {len(report.problems)}", *report.problems]
    return "\n".join(lines)


def _tell(attack: Attack) -> None:
    phases = ", ".join(kill.phase for kill in attack.kills)
    print(f"{attack.case.name} ({attack.case.shape}): killed at {phases}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Attack from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.harness", description=__doc__)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--per-phase", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--signal", choices=sorted(SIGNALS), default="KILL")
    parser.add_argument("--state", choices=["local", "s3"], default="local")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no job after them")
    parser.add_argument("--keep", type=Path, help="leave all files in this folder")
    given = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = attack_jobs(
            folder,
            jobs=given.jobs,
            kills=given.kills,
            per_phase=given.per_phase,
            seed=given.seed,
            kind=given.signal,
            s3=given.state == "s3",
            minutes=given.minutes,
            observe=_tell,
        )
    print(show(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
