"""One job, killed again and again, and what must hold after each kill and at the end."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.crash.jobs import Case, write_case
from tests.crash.phases import ANY, FIRST, KillPoint
from tests.crash.processes import read_bill, read_log, run_process, send_signal, settle
from tests.crash.reader import Look, Place, look, name_pairs
from tests.crash.runner import Order

__all__ = ["Attack", "Kill", "Site"]

VOLATILE = {"write_id", "created_at", "sha256"}
GENTLE = {signal.SIGTERM, signal.SIGINT}


@dataclass(frozen=True, slots=True)
class Site:
    """Where a job is attacked: a folder for files, a location for its roots, the server's URL."""

    folder: Path
    output: str
    state: str
    url: str
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill that struck: its phase, what it lost, and the most that it may have lost."""

    phase: str
    lost: int
    lost_usd: float
    bound: int
    bound_usd: float


@dataclass
class Attack:
    """A job run twice: undisturbed, and killed at ``points``; ``problems`` say what did not hold.

    ``signals`` are drawn from at random instants; a SIGKILL strikes at its point instead.
    """

    case: Case
    site: Site
    draw: random.Random
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    runs: int = 0

    def go(self, points: Sequence[KillPoint], signals: Sequence[signal.Signals]) -> None:
        """Run the job undisturbed, then under attack, then compare."""
        self._runs_alone()
        last = len(self.case.tables) - 1
        calm_before = self._look("calm")
        seconds = self._run_calmly("calm", last)
        calm = self._look("calm")
        self._bound = self._count_at_risk(calm_before, calm)
        before, self._bill = self._look("killed"), read_bill(self.site.url)
        self._sealed, self._before = before, before
        self._billed = settle(self.site.url)
        self._lost, self._lost_usd = 0, 0.0
        for point in points:
            if not self._strike(point, signals, seconds):
                break
        self._finish()
        self._compare(calm)

    def _runs_alone(self) -> None:
        """Run the earlier generations undisturbed in both places."""
        for generation in range(len(self.case.tables) - 1):
            for place in ("calm", "killed"):
                self._run_calmly(place, generation)

    def _order(self, place: str, generation: int, kill: KillPoint | None = None) -> Order:
        site = self.site
        self.runs += 1
        path = write_case(
            self.case,
            site.folder,
            url=site.url,
            output=f"{site.output}/{place}/out",
            state=f"{site.state}/{place}/out.state",
            generation=generation,
        )
        return Order(
            arguments=("run", str(path), "--json"),
            log=site.folder / f"{place}-{self.runs}.log",
            kept=site.folder / f"{place}.kept",
            environment=site.environment,
            kill=kill,
        )

    def _run_calmly(self, place: str, generation: int) -> float:
        order = self._order(place, generation)
        code, seconds = run_process(order)
        if code != 0:
            self._complain(f"an undisturbed run ended with {code}: {read_log(order.log)}")
        return seconds

    def _look(self, place: str) -> Look:
        site = self.site
        output = f"{site.output}/{place}/out"
        found = look(
            Place(f"{site.state}/{place}/out.state", site.environment),
            Place(output, site.environment),
            Place(f"{output}.rejected", site.environment),
        )
        for problem in found.problems:
            self._complain(problem)
        return found

    def _count_at_risk(self, before: Look, after: Look) -> tuple[int, float]:
        """Return the passages and dollars of the largest requests that a kill may lose."""
        requests = list((Counter(after.requests) - Counter(before.requests)).elements())
        count = self.case.at_risk
        passages = sorted(passages for passages, _ in requests)[-count:]
        return sum(passages), sum(sorted(usd for _, usd in requests)[-count:])

    def _strike(self, point: KillPoint, signals: Sequence[signal.Signals], seconds: float) -> bool:
        """Run until the kill strikes; say whether the job is still unfinished."""
        number, struck = self.draw.choice(signals), Struck()
        timed = number is not signal.SIGKILL or point.phase == ANY
        order = self._order("killed", len(self.case.tables) - 1, None if timed else point)
        if not timed:
            code, _ = run_process(order)
            struck.count = int(code == -signal.SIGKILL)
        else:
            wait = self.draw.uniform(0, 0.6 * seconds)
            code, _ = run_process(order, lambda process: _disturb(process, number, wait, struck))
        if struck.count:
            self._weigh(point, number, struck.count)
        expected = {0, -signal.SIGKILL} if number is signal.SIGKILL else {0}
        expected |= {130} if number in GENTLE else set()
        if code not in expected:
            self._complain(f"{number.name} at {point}: exit code {code}: {read_log(order.log)}")
        return code != 0

    def _weigh(self, point: KillPoint, number: signal.Signals, count: int) -> None:
        """Compare the server's bill with the ledger after a kill."""
        now, billed = self._look("killed"), settle(self.site.url)
        lost = billed.passages - self._billed.passages - (now.passages - self._before.passages)
        usd = billed.cost_usd - self._billed.cost_usd - (now.cost_usd - self._before.cost_usd)
        gone = self._sealed.scores.items() - now.scores.items()
        if gone:
            self._complain(f"{point}: {len(gone)} sealed scores are gone or changed")
        phase = point.phase
        if number is not signal.SIGKILL or (
            phase == FIRST and now.passages > self._before.passages
        ):
            phase = ANY  # it went by the clock, or came late
        bound, bound_usd = self._bound if number is signal.SIGKILL else (0, 0.0)
        kill = Kill(phase, lost - self._lost, usd - self._lost_usd, bound, bound_usd)
        if not (0 <= kill.lost <= bound and kill.lost_usd <= bound_usd + 1e-9):
            self._complain(f"{number.name} at {point}: {kill}")
        self.kills += [kill] * count
        self._lost, self._lost_usd, self._sealed = lost, usd, now

    def _finish(self) -> None:
        """Run to the end, and once more: that sends nothing."""
        last = len(self.case.tables) - 1
        self._run_calmly("killed", last)
        billed = settle(self.site.url)
        self._run_calmly("killed", last)
        if settle(self.site.url) != billed:
            self._complain("a published plan was sent again")

    def _compare(self, calm: Look) -> None:
        """Compare with the undisturbed run: bytes, manifests, scores, library and bill."""
        killed = self._look("killed")
        if killed.published != calm.published:
            self._complain("the published files are not those of the undisturbed run")
        if _strip(killed) != _strip(calm):
            self._complain("the manifests are not those of the undisturbed run")
        ours, theirs = self._list_artefacts("killed", killed), self._list_artefacts("calm", calm)
        if ours != theirs:
            self._complain(f"parts or done.json differ: {sorted(ours.items() ^ theirs.items())}")
        paid = killed.sealed - self._before.sealed
        if set(paid.values()) - {1}:
            self._complain("sealed pairs were paid again")
        if killed.library != killed.scores:
            self._complain("the library does not hold what the segments hold")
        self._compare_bill(calm, killed, paid)

    def _compare_bill(self, calm: Look, killed: Look, paid: Counter[bytes]) -> None:
        names = name_pairs(self.site.folder / "killed.kept")
        calm_names = name_pairs(self.site.folder / "calm.kept")
        scores = {names.get(pair, pair.hex()): s for pair, s in killed.scores.items()}
        if scores != {calm_names.get(pair, pair.hex()): s for pair, s in calm.scores.items()}:
            self._complain("the ledger's scores are not those of the undisturbed run")
        billed = Counter(read_bill(self.site.url))
        billed.subtract(self._bill)
        ours = Counter({names.get(pair, pair.hex()): times for pair, times in paid.items()})
        extra = Counter(billed)
        extra.subtract(ours)
        extra = Counter({pair: times for pair, times in extra.items() if times})
        if min(extra.values(), default=0) < 0 or set(extra) - set(ours):
            self._complain("the bill by pair is not the ledger and what kills lost")
        if extra.total() != sum(kill.lost for kill in self.kills):
            self._complain(f"{extra.total()} passages billed beyond the ledger, kills lost others")

    def _list_artefacts(self, place: str, found: Look) -> dict[str, str]:
        """Return digests of parts, rejected rows and done.json, deleted or still there."""
        held = {**found.parts, **found.done}
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in held.items()}
        folder = self.site.folder / f"{place}.kept"
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith("work."):
                name = str(path.relative_to(folder))
                digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return digests

    def _complain(self, problem: str) -> None:
        self.problems.append(f"{self.case.name} ({self.case.shape}): {problem}")


@dataclass
class Struck:
    """How many signals found the run alive."""

    count: int = 0


def _disturb(
    process: ForkServerProcess, number: signal.Signals, wait: float, struck: Struck
) -> None:
    """Send the signal after a while; a stopped process is continued, and stopped once more."""
    process.join(wait)
    if number is not signal.SIGSTOP:
        struck.count += send_signal(process, number)
        return
    for _ in range(3):
        struck.count += send_signal(process, number)
        time.sleep(0.1)
        send_signal(process, signal.SIGCONT)
        process.join(wait / 3)


def _strip(found: Look) -> dict[str, Any]:
    """Return the manifests without what names the clock or the attempt."""
    return {
        name: _round({key: value for key, value in document.items() if key not in VOLATILE})
        for name, document in found.manifests.items()
    }


def _round(value: Any) -> Any:
    """Round floats: sums of dollars depend on the order of segments in their last digit."""
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    return [_round(item) for item in value] if isinstance(value, list) else value
