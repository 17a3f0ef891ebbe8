"""Retained generations: what stays under state, and going back to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import CommitUnknown, StateError
from rerank_jobs.publish import publisher
from rerank_jobs.publish.generations import Generation, read_current, read_generations
from rerank_jobs.publish.leftovers import UNSETTLED_SECONDS, announce_copies, find_leftovers, tidy
from rerank_jobs.publish.publisher import (
    Roots,
    find_published,
    publish_plan,
    restore_generation,
)
from rerank_jobs.publish.retention import is_retained, mend, name_kept
from rerank_jobs.storage import seal_json
from tests.unit.publish.kit import PARTITION, make_order, make_roots, publishing_job, snapshot

PLANS = [letter * 32 for letter in "abcdef"]


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return make_roots(tmp_path)


def keeping(folder: Path, generations: int) -> Job:
    return publishing_job(folder).model_copy(
        update={
            "publish": publishing_job(folder).publish.model_copy(
                update={"keep_generations": generations}
            )
        }
    )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return keeping(tmp_path, 1)


def publish(job: Job, roots: Roots, letter: str, *contents: bytes) -> Generation:
    """Publish plan ``letter`` with the given parts, or with one part that is the letter."""
    return publish_plan(
        job, roots, make_order(roots, letter * 32, *(contents or [letter.encode()]))
    )


def visible(roots: Roots) -> list[bytes]:
    """Return the contents of the output."""
    return sorted(roots.output.read(entry.name) for entry in roots.output.entries())


def kept(roots: Roots) -> list[bytes]:
    """Return the contents of the state parts."""
    return sorted(
        roots.state.read(entry.name)
        for entry in roots.state.entries(f"{PARTITION}/run")
        if "/part-" in entry.name
    )


@pytest.mark.parametrize(("keep", "left"), [(0, b"d"), (1, b"cd"), (2, b"bcd"), (9, b"abcd")])
def test_state_parts_of_the_retained_generations_stay_and_others_go(
    roots: Roots, tmp_path: Path, keep: int, left: bytes
) -> None:
    """After each commit state holds the parts of the current generation and of ``keep`` before."""
    job = keeping(tmp_path, keep)
    for letter in "abcd":
        publish(job, roots, letter)
        assert visible(roots) == [letter.encode()]
    assert kept(roots) == [bytes([byte]) for byte in left]


def test_a_part_that_a_retained_generation_shares_is_not_removed(roots: Roots, job: Job) -> None:
    """A plan that was published twice names one state part in both; it stays for the later one."""
    for letter in "abac":
        publish(job, roots, letter)
    assert kept(roots) == [b"a", b"c"]


def test_a_part_of_a_live_plan_is_not_removed(roots: Roots, job: Job) -> None:
    """A plan that is frozen again keeps the parts of its earlier life."""
    publish(job, roots, "a")
    roots.state.put_if_absent(f"{PARTITION}/plan/{'a' * 32}.json", b"{}")
    for letter in "bcd":
        publish(job, roots, letter)
    assert kept(roots) == [b"a", b"c", b"d"]
    roots.state.delete(f"{PARTITION}/plan/{'a' * 32}.json")
    ((store, name),) = find_leftovers(roots, PARTITION, 1)
    assert store.read(name) == b"a"


def test_a_commit_of_unknown_outcome_removes_no_state_part(
    roots: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a commit that surely landed makes an earlier generation superfluous."""
    job = keeping(tmp_path, 0)
    publish(job, roots, "a")

    def fail(*_: object) -> None:
        raise CommitUnknown("nobody knows")

    monkeypatch.setattr(publisher, "commit", fail)
    with pytest.raises(CommitUnknown):
        publish(job, roots, "b")
    assert kept(roots) == [b"a", b"b"]
    assert visible(roots) == [b"a", b"b"]


def test_going_back_is_a_new_generation_with_the_old_ones_bytes(roots: Roots, job: Job) -> None:
    """The output is the earlier table, the manifest says what it restores and what it withdrew."""
    first = publish(job, roots, "a", b"one", b"two")
    publish(job, roots, "b", b"one", b"three")
    back = restore_generation(job, roots, PARTITION, 1)
    assert (back.number, back.plan_id) == (3, first.plan_id)
    assert back.document["restores"] == 1
    assert back.withdrawn == ("b" * 32,)
    assert back.parts == first.parts
    assert visible(roots) == [b"one", b"two"]
    assert read_current(roots.state, PARTITION) == back


def test_going_back_twice_changes_nothing(roots: Roots, job: Job) -> None:
    """The same command again finds it done, by the old number or by the new one."""
    for letter in "ab":
        publish(job, roots, letter)
    back = restore_generation(job, roots, PARTITION, 1)
    before = snapshot(roots.output.location, roots.state.location)
    for number in (1, 3):
        assert restore_generation(job, roots, PARTITION, number) == back
    assert snapshot(roots.output.location, roots.state.location) == before


def test_a_withdrawn_plan_is_treated_as_published(roots: Roots, job: Job) -> None:
    """Neither finding nor publishing it undoes the going back; another plan goes on as ever."""
    for letter in "ab":
        publish(job, roots, letter)
    back = restore_generation(job, roots, PARTITION, 1)
    assert find_published(roots, PARTITION, "b" * 32) == back
    assert publish(job, roots, "b") == back
    assert visible(roots) == [b"a"]
    assert publish(job, roots, "c").number == 4
    assert publish(job, roots, "b").number == 5


def test_what_was_withdrawn_can_be_brought_back(roots: Roots, job: Job) -> None:
    """Going back from the going back publishes the withdrawn generation again."""
    for letter in "ab":
        publish(job, roots, letter)
    restore_generation(job, roots, PARTITION, 1)
    forth = restore_generation(job, roots, PARTITION, 2)
    assert (forth.number, forth.plan_id, forth.withdrawn) == (4, "b" * 32, ("a" * 32,))
    assert visible(roots) == [b"b"]
    assert find_published(roots, PARTITION, "b" * 32) == forth


def test_a_generation_that_is_not_retained_is_refused_with_those_that_are(
    roots: Roots, job: Job
) -> None:
    """Nothing changes, and the message names what one can go back to."""
    for letter in "abcd":
        publish(job, roots, letter)
    before = snapshot(roots.output.location, roots.state.location)
    for number in (1, 9):
        with pytest.raises(StateError, match=rf"generation {number} .* not retained: those .*: 3 "):
            restore_generation(job, roots, PARTITION, number)
    assert snapshot(roots.output.location, roots.state.location) == before


def test_a_damaged_state_part_is_not_gone_back_to(roots: Roots, job: Job) -> None:
    """Every part is checked by its digest before the first one is copied or announced."""
    first = publish(job, roots, "a", b"one", b"two")
    publish(job, roots, "b")
    roots.state.put(first.parts[1].source or "", b"tw0")
    before = snapshot(roots.output.location, roots.state.location)
    with pytest.raises(StateError, match="a finished part is damaged: nothing was published"):
        restore_generation(job, roots, PARTITION, 1)
    assert snapshot(roots.output.location, roots.state.location) == before


def test_manifests_without_sources_are_read_and_not_retained(roots: Roots, job: Job) -> None:
    """A generation of an earlier version can be read, followed and superseded, not gone back to."""
    first = publish(job, roots, "a")
    document = {**first.document}
    document["parts"] = [
        {k: v for k, v in part.items() if k != "source"} for part in document["parts"]
    ]
    roots.state.put(first.name, seal_json(document))
    (old,) = read_generations(roots.state, PARTITION)
    assert [part.source for part in old.parts] == [None]
    assert not is_retained(roots.state, old)
    assert name_kept(roots.state, PARTITION, 1) == set()
    assert publish(job, roots, "b").number == 2
    assert visible(roots) == [b"b"]
    with pytest.raises(StateError, match="not retained"):
        restore_generation(job, roots, PARTITION, 1)


def test_mending_puts_back_the_bytes_of_the_manifest(roots: Roots, job: Job) -> None:
    """A missing and a cut file at first sight, one of the same size only when bytes are read."""
    current = publish(job, roots, "a", b"one", b"two", b"six")
    names = [part.name for part in current.parts]
    roots.output.delete(names[0])
    roots.output.put(names[1], b"t")
    roots.output.put(names[2], b"SIX")
    assert mend(roots, current) == names[:2]
    assert mend(roots, current) == []
    assert mend(roots, current, deep=True) == names[2:]
    assert visible(roots) == [b"one", b"six", b"two"]


def test_what_cannot_be_mended_is_left_and_named(roots: Roots, job: Job) -> None:
    """Where the copy under state is damaged too, no file is removed."""
    current = publish(job, roots, "a")
    (part,) = current.parts
    roots.output.put(part.name, b"A")
    roots.state.put(part.source or "", b"A")
    with pytest.raises(StateError, match="run the job again: it is made again from paid scores"):
        mend(roots, current, deep=True)
    assert visible(roots) == [b"A"]


# Copies whose commit is on its way.


def test_copies_whose_generation_may_still_come_are_left_alone(roots: Roots, job: Job) -> None:
    """An unsettled copy list protects what it names, until its number is taken or it is old."""
    current = publish(job, roots, "a")
    name = current.parts[0].name.replace("part-00000", "part-00007")
    stray = current.parts[0].__class__(name, "0" * 64, 5, 1)
    announce_copies(roots.state, PARTITION, 2, [stray], [])
    roots.output.put_if_absent(name, b"stray")
    assert tidy(roots, PARTITION, 1) == []
    assert visible(roots) == [b"a", b"stray"]
    publish(job, roots, "b")
    assert visible(roots) == [b"b"]


def test_copies_that_were_left_long_ago_are_removed(roots: Roots, job: Job) -> None:
    """A run that died between copying and commit leaves nothing behind for ever."""
    current = publish(job, roots, "a")
    name = current.parts[0].name.replace("part-00000", "part-00007")
    stray = current.parts[0].__class__(name, "0" * 64, 5, 1)
    announce_copies(roots.state, PARTITION, 2, [stray], [])
    roots.output.put_if_absent(name, b"stray")
    (copy_list,) = roots.state.entries(f"{PARTITION}/publish")
    later = copy_list.modified + UNSETTLED_SECONDS
    assert tidy(roots, PARTITION, 1, now=later - 1) == []
    assert tidy(roots, PARTITION, 1, now=later) == [name, copy_list.name]
    assert visible(roots) == [b"a"]
    assert tidy(roots, PARTITION, 1, now=later) == []
