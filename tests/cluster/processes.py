"""Processes of a cluster: started in sessions of their own, recorded by pid, ended whole.

Airflow's components make process groups and leave children behind when they are killed. What ends
them here is found by recorded pid, start time, session and parentage; never by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson
import psutil  # type: ignore[import-untyped]

__all__ = ["Child", "Family", "end_children", "kill_tree", "read_children"]

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 10.0
KILLS = 20
"""Most rounds of killing: a tree that is being killed may still start a process or two."""


@dataclass(frozen=True, slots=True)
class Child:
    """A started process, head of its session: ``end_signal`` asks it to end, in its ``wave``.

    Higher waves end first. ``started`` (seconds since 1970) tells it from a later owner of the pid.
    """

    name: str
    pid: int
    started: float
    wave: int
    end_signal: int


@dataclass(slots=True)
class Family:
    """All processes of one cluster, with a reaper that ends them should this process be killed.

    ``record`` is a file that holds them; ``logs`` a folder for their output.
    """

    record: Path
    logs: Path
    children: list[Child] = field(default_factory=list)
    _popens: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _reaper: subprocess.Popen[bytes] | None = None

    def watch(self, *, remove: Path | None) -> None:
        """Start the reaper: when this process is gone it ends the others and removes a folder."""
        self.record.touch()
        command = [sys.executable, "-m", "tests.cluster.reaper", str(self.record)]
        self._reaper = subprocess.Popen(
            [*command, *([] if remove is None else [str(remove)])],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        wave: int,
        end_signal: int = signal.SIGTERM,
    ) -> Child:
        """Start a process whose output goes to ``logs/NAME.log``."""
        with (self.logs / f"{name}.log").open("ab") as output:
            popen = subprocess.Popen(
                command,
                env=environment,
                cwd=self.logs,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._popens.append(popen)
        child = Child(name, popen.pid, psutil.Process(popen.pid).create_time(), wave, end_signal)
        self.children.append(child)
        with self.record.open("ab") as record:
            record.write(orjson.dumps(asdict(child)) + b"\n")
        return child

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a process to its end.

        Raises:
            RuntimeError: it failed; the message holds the end of its log.

        """
        child = self.start(name, command, environment, wave=0)
        popen = self._popens[-1]
        if popen.wait() != 0:
            self.check()
        self.forget(child)

    def check(self) -> None:
        """Make sure that every process that was started and not killed on purpose still runs.

        Raises:
            RuntimeError: one ended; the message holds the end of its log.

        """
        for popen, child in zip(self._popens, self.children, strict=True):
            if popen.poll() is not None:
                log = (self.logs / f"{child.name}.log").read_text(errors="replace")
                raise RuntimeError(f"{child.name} ended with {popen.returncode}:\n{log[-3000:]}")

    def forget(self, child: Child) -> None:
        """Leave a process that was killed on purpose out of ``check``."""
        number = self.children.index(child)
        del self.children[number]
        self._popens.pop(number).wait()

    def end(self) -> None:
        """End all processes, the latest wave first; what does not end by itself is killed.

        Bounded: at most ``GRACE_SECONDS`` a wave. A second interruption kills the rest at once.
        """
        try:
            end_children(self.children)
        except KeyboardInterrupt:
            end_children(self.children, grace=0.0)
            raise
        finally:
            self._end_unrecorded()
            for popen in self._popens:
                popen.wait()
            if self._reaper is not None and self._reaper.stdin is not None:
                self._reaper.stdin.close()
                self._reaper.wait()

    def _end_unrecorded(self) -> None:
        """Kill what an interruption kept from being recorded: our children that run in ``logs``."""
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()) == self.logs.resolve():
                    kill_tree([Child("", process.pid, process.create_time(), 0, signal.SIGKILL)])
                    process.wait(GRACE_SECONDS)


def read_children(record: Path) -> list[Child]:
    """Return the processes that a record names."""
    return [Child(**orjson.loads(line)) for line in record.read_bytes().splitlines()]


def end_children(children: Iterable[Child], *, grace: float = GRACE_SECONDS) -> None:
    """End processes and all that they started, wave by wave; kill what is left after ``grace``."""
    left = list(children)
    for wave in sorted({child.wave for child in left}, reverse=True):
        members = [child for child in left if child.wave == wave]
        for child in reversed(members):
            head = _find_head(child)
            if head is not None and grace > 0:
                with contextlib.suppress(psutil.NoSuchProcess):
                    head.send_signal(child.end_signal)
        _wait(members, grace)
        kill_tree(members)


def kill_tree(children: Sequence[Child]) -> int:
    """Kill processes and all that they started with SIGKILL; return how many were killed."""
    killed = set()
    for _ in range(KILLS):
        members = _find_members(children)
        if not members:
            break
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
                killed.add(member.pid)
        psutil.wait_procs(members, timeout=0.5)
    return len(killed)


def _wait(children: Sequence[Child], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and _find_members(children):
        time.sleep(0.1)


def _find_head(child: Child) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        head = psutil.Process(child.pid)
        if abs(head.create_time() - child.started) < 1.0 and _runs(head):
            return head
    return None


def _find_members(children: Sequence[Child]) -> list[psutil.Process]:
    """Return the living processes of these sessions, and all that descend from their heads."""
    started = {child.pid: child.started for child in children}
    found = {}
    for child in children:
        head = _find_head(child)
        if head is not None:
            found[head.pid] = head
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {member.pid: member for member in head.children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            session = os.getsid(process.pid)
            if session in started and process.create_time() > started[session] - 1.0:
                found[process.pid] = process
    return [process for process in found.values() if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
