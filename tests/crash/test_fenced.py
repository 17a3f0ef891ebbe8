"""A run that is stopped, taken over and continued: it seals what it paid, and changes nothing."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.crash.jobs import draw_case, write_case
from tests.crash.phases import KillPoint
from tests.crash.processes import read_bill, run_process, send_signal, settle, start_process
from tests.crash.reader import Look, Place, look, name_pairs
from tests.crash.runner import Order
from tests.unit.cli.kit import serve

pytestmark = pytest.mark.slow

SILENCE, BEAT = 2.0, 0.2
BUSY, FENCED = 5, 6
DEADLINE = 60.0


@pytest.fixture
def url() -> Iterator[str]:
    """Serve the instant endpoint, 150 ms a reply, with a bill of the test's own."""
    with serve("--scorer", "instant", "--latency-ms", "150") as address:
        yield address


def make_order(folder: Path, url: str, kill: KillPoint) -> Order:
    """Write a job of one shard; the run stops itself at ``kill``, others wait 2 s for it."""
    job = write_case(
        draw_case(0, seed=5),
        folder,
        url=url,
        output=f"{folder}/killed/out",
        state=f"{folder}/killed/out.state",
        generation=-1,
    )
    return Order(
        ("run", str(job)),
        log=folder / "first.log",
        kept=folder / "kept",
        kill=kill,
        signal=signal.SIGSTOP,
        silence_seconds=SILENCE,
        beat_seconds=BEAT,
    )


def take_over(order: Order) -> None:
    """Let another owner in: busy at first, then it finishes and publishes."""
    other = dataclasses.replace(order, kill=None)
    code, _ = run_process(dataclasses.replace(other, log=order.log.with_name("early.log")))
    assert code == BUSY, order.log.with_name("early.log").read_text()
    time.sleep(SILENCE)
    code, _ = run_process(dataclasses.replace(other, log=order.log.with_name("second.log")))
    assert code == 0, order.log.with_name("second.log").read_text()


def wait_until_stopped(process: ForkServerProcess) -> None:
    """Wait until every thread of the run is stopped."""
    end = time.monotonic() + DEADLINE
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end
        time.sleep(0.01)


def look_at(folder: Path) -> Look:
    """Read everything that stands there."""
    roots = (f"{folder}/killed/out.state", f"{folder}/killed/out", f"{folder}/killed/out.rejected")
    state, output, rejected = (Place(root, {}) for root in roots)
    return look(state, output, rejected)


def list_state(folder: Path) -> dict[str, bytes]:
    """Return every state file but beats."""
    found = Place(f"{folder}/killed/out.state", {}).read_all()
    return {name: data for name, data in found.items() if not name.endswith(".beat")}


def resume(process: ForkServerProcess) -> int:
    """Continue a stopped run and return its exit code."""
    assert send_signal(process, signal.SIGCONT)
    process.join(DEADLINE)
    assert process.exitcode is not None
    return process.exitcode


def test_a_run_stopped_while_it_scores_seals_what_it_paid_and_leaves(
    tmp_path: Path, url: str
) -> None:
    """Taken over meanwhile, it ends as fenced: all it paid is sealed, nothing else is its own.

    The bill by pair is the ledger: also the replies that waited in its sockets are in a segment.
    """
    order = make_order(tmp_path, url, KillPoint("during a seal", 3))
    process = start_process(order)
    wait_until_stopped(process)
    take_over(order)
    before, state, billed = look_at(tmp_path), list_state(tmp_path), settle(url)
    assert billed.passages > before.passages  # what the stopped run has not sealed
    assert resume(process) == FENCED, order.log.read_text()
    assert "taken over by process" in order.log.read_text()

    after = look_at(tmp_path)
    assert (after.problems, after.published, after.manifests) == (
        [],
        before.published,
        before.manifests,
    )
    added = [name.rpartition("/00000/")[2] for name in list_state(tmp_path) if name not in state]
    assert {name.rpartition("-")[0] for name in added} == {"seg/00000001", "run"}
    assert {name: list_state(tmp_path)[name] for name in state} == state
    names = name_pairs(tmp_path / "kept")
    ledger = Counter({names[pair]: times for pair, times in after.sealed.items()})
    assert Counter(read_bill(url)) == ledger
    assert after.scores.keys() == before.scores.keys()


# Before and after a part has its name in the output, and between the last check and the commit.
@pytest.mark.parametrize("event", [3, 4, 7])
def test_a_run_stopped_while_it_publishes_changes_nothing_later(
    tmp_path: Path, url: str, event: int
) -> None:
    """Stopped in publishing and taken over, it changes no published byte and no state."""
    order = make_order(tmp_path, url, KillPoint("publish", event))
    process = start_process(order)
    wait_until_stopped(process)
    take_over(order)
    before, state = look_at(tmp_path), list_state(tmp_path)
    assert resume(process) in {0, FENCED}, order.log.read_text()
    after = look_at(tmp_path)
    assert (after.problems, after.published, after.manifests) == (
        [],
        before.published,
        before.manifests,
    )
    assert list_state(tmp_path) == state
