"""AIMD, outages and pauses: a state machine driven by hand."""

from __future__ import annotations

import random

import pytest

from rerank_jobs.score.overload import OUTAGE_FAILURES, Overload


def make(max_concurrency: int = 64) -> Overload:
    return Overload(max_concurrency, random.Random(1))


def test_the_window_starts_at_twenty_or_the_maximum() -> None:
    """The first window is AIMD's, never above what was configured."""
    assert make().window == 20
    assert make(8).window == 8


def test_the_window_grows_by_one_when_it_is_used() -> None:
    """A success adds one while at least half the window is in flight, up to the maximum."""
    overload = make(22)
    overload.note_success(in_flight=9)
    assert overload.window == 20
    for _ in range(5):
        overload.note_success(in_flight=20)
    assert overload.window == 22


def test_the_window_shrinks_by_a_tenth_and_never_below_one() -> None:
    """A failure costs a tenth; there is always room for one."""
    overload = make()
    overload.note_failure(0.0, 0.0)
    assert overload.window == 18
    for _ in range(100):
        overload.note_failure(0.0, 0.0)
    assert overload.window == 1


def test_room_is_what_the_window_leaves() -> None:
    """Below the window there is room, at it there is none."""
    overload = make(4)
    assert overload.has_room(0.0, 3)
    assert not overload.has_room(0.0, 4)


def open_outage(overload: Overload, now: float = 100.0) -> None:
    for _ in range(OUTAGE_FAILURES):
        overload.note_failure(now, now - 1)


def test_failures_in_a_row_are_an_outage_and_a_success_ends_it() -> None:
    """Ten failures without a success let only probes through; one success lets all through."""
    overload = make()
    open_outage(overload)
    assert overload.outage
    assert not overload.has_room(100.0, 0)
    overload.note_success(1)
    assert not overload.outage
    assert overload.has_room(100.0, 0)


def test_a_success_between_failures_is_no_outage() -> None:
    """Nine failures, a success, nine failures: business as usual."""
    overload = make()
    for _ in range(3):
        for _ in range(OUTAGE_FAILURES - 1):
            overload.note_failure(1.0, 0.0)
        overload.note_success(1)
    assert not overload.outage


def test_one_probe_at_a_time_ever_more_rarely() -> None:
    """In an outage a probe waits for the one before, then for a delay that doubles to a minute."""
    overload = make()
    now = 100.0
    open_outage(overload, now)
    delays = []
    for _ in range(12):
        at = overload.probe_at
        assert at is not None
        delays.append(at - now)
        now = at
        assert overload.has_room(now, 5)
        overload.note_send()
        assert not overload.has_room(now + 3600, 0)
        assert overload.probe_at is None
        overload.note_failure(now, now)
    assert 0.5 <= delays[0] <= 1
    assert all(30 <= delay <= 60 for delay in delays[6:])


def test_late_failures_of_before_the_outage_are_not_the_probe() -> None:
    """Sends that left before the outage opened do not let a second probe leave."""
    overload = make()
    open_outage(overload, 100.0)
    at = overload.probe_at
    assert at is not None
    overload.note_send()
    overload.note_failure(at + 1, 99.0)
    assert not overload.has_room(at + 3600, 0)


def test_failing_since_is_the_first_failure_after_a_success() -> None:
    """Patience is measured from there."""
    overload = make()
    assert overload.failing_since is None
    overload.note_failure(5.0, 4.0)
    overload.note_failure(9.0, 8.0)
    assert overload.failing_since == 5.0
    overload.note_success(1)
    assert overload.failing_since is None


def test_a_hint_is_the_least_pause() -> None:
    """The pause lasts as long as the endpoint asks, at least."""
    assert make().draw_pause(100.0, 99.0, 17.0) == 117.0


def test_pauses_without_a_hint_double_by_episode() -> None:
    """Replies to sends of before a pause belong to its episode and lengthen nothing."""
    overload = make()
    now, pauses = 100.0, []
    for _ in range(10):
        until = overload.draw_pause(now, now, None)
        assert all(overload.draw_pause(now + 0.1, now - 0.1, None) <= now + 0.1 for _ in range(9))
        pauses.append(until - now)
        now = until
    assert 0.5 <= pauses[0] <= 1
    assert all(30 <= pause <= 60 for pause in pauses[7:])


@pytest.mark.parametrize("hint", [0.0, 0.001])
def test_a_tiny_hint_does_not_make_a_storm(hint: float) -> None:
    """Retry-After: 0 again and again still leads to growing pauses."""
    overload = make()
    now = 0.0
    for _ in range(10):
        now = overload.draw_pause(now, now, hint)
    assert now > 60
