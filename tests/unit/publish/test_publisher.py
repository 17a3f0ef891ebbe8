"""Publishing: one commit, nothing before it, nothing lost after it, and the same twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import CommitUnknown, GateFailed, StateError
from rerank_jobs.publish import publisher
from rerank_jobs.publish.gates import check_gates
from rerank_jobs.publish.generations import Generation, commit, manifest_name, read_current
from rerank_jobs.publish.leftovers import tidy
from rerank_jobs.publish.publisher import Roots, find_published, publish_plan
from rerank_jobs.storage import Put
from tests.unit.publish.kit import (
    FOLDER,
    PARTITION,
    make_order,
    make_roots,
    publishing_job,
    put_part,
    snapshot,
)

PLAN_A, PLAN_B, PLAN_C = "a" * 32, "b" * 32, "c" * 32


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return make_roots(tmp_path)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return publishing_job(tmp_path)


def visible(roots: Roots) -> dict[str, bytes]:
    """Return what stands in the output."""
    return {entry.name: roots.output.read(entry.name) for entry in roots.output.entries()}


def named(roots: Roots, generation: Generation) -> dict[str, bytes]:
    return {part.name: roots.output.read(part.name) for part in generation.parts}


def test_the_first_publishing_makes_generation_one(roots: Roots, job: Job) -> None:
    """Parts stand in the partition's folder under the names and digests of the manifest."""
    generation = publish_plan(job, roots, make_order(roots, PLAN_A, b"one", b"", b"two"))
    assert (generation.number, generation.plan_id) == (1, PLAN_A)
    assert list(named(roots, generation).values()) == [b"one", b"two"]
    assert visible(roots) == named(roots, generation)
    assert [part.name.split("-")[3] for part in generation.parts] == ["00000", "00002"]
    assert all(part.name.startswith(f"{FOLDER}/part-") for part in generation.parts)
    assert generation.document["statuses"] == {"scored": 20, "failed": 0}
    current = read_current(roots.state, PARTITION)
    assert current is not None
    assert (current.parts, current.number) == (generation.parts, 1)


def test_publishing_the_current_plan_changes_nothing(roots: Roots, job: Job) -> None:
    """The second time the same generation is returned and no byte differs anywhere."""
    order = make_order(roots, PLAN_A, b"one", rejected=b"bad")
    first = publish_plan(job, roots, order)
    everything = (roots.output.location, roots.rejected.location, roots.state.location)
    before = snapshot(*everything)
    assert publish_plan(job, roots, order).number == first.number
    assert snapshot(*everything) == before


def test_what_is_superseded_goes_and_what_is_shared_stays(roots: Roots, job: Job) -> None:
    """Parts and rejected rows of the old generation alone are removed; equal parts are kept."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"same", b"old", rejected=b"bad"))
    generation = publish_plan(job, roots, make_order(roots, PLAN_B, b"same", b"new"))
    assert generation.number == 2
    assert sorted(visible(roots).values()) == [b"new", b"same"]
    assert visible(roots) == named(roots, generation)
    assert roots.rejected.entries() == []


def test_superseded_parts_stand_until_the_commit(
    roots: Roots, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the new manifest is created, every part of the old and of the new one is there."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"old"))
    during: list[list[bytes]] = []

    def look(*arguments: Any) -> Generation:
        during.append(sorted(visible(roots).values()))
        return commit(*arguments)

    monkeypatch.setattr(publisher, "commit", look)
    publish_plan(job, roots, make_order(roots, PLAN_B, b"new"))
    assert during == [[b"new", b"old"]]


def test_a_file_that_is_not_ours_is_never_removed(roots: Roots, job: Job) -> None:
    """Only what a superseded manifest names is ours to remove."""
    roots.output.put_if_absent(f"{FOLDER}/notes.txt", b"a person's")
    for plan, data in ((PLAN_A, b"one"), (PLAN_B, b"two")):
        publish_plan(job, roots, make_order(roots, plan, data))
    assert roots.output.read(f"{FOLDER}/notes.txt") == b"a person's"


def test_a_crash_between_commit_and_tidying_is_healed_by_the_next_run(
    roots: Roots, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit stands, readers by manifest see the new one, and the next run removes the old."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"old"))

    def die(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(publisher, "_remove_superseded", die)
        with pytest.raises(RuntimeError):
            publish_plan(job, roots, make_order(roots, PLAN_B, b"new"))
    current = read_current(roots.state, PARTITION)
    assert current is not None
    assert named(roots, current).popitem()[1] == b"new"
    assert len(visible(roots)) == 2
    assert publish_plan(job, roots, make_order(roots, PLAN_B, b"new")).number == 2
    assert list(visible(roots).values()) == [b"new"]


def test_content_that_goes_back_is_published_again(roots: Roots, job: Job) -> None:
    """A part whose bytes come back after a generation without them is there, once."""
    for plan, data in ((PLAN_A, b"one"), (PLAN_B, b"two"), (PLAN_A, b"one")):
        generation = publish_plan(job, roots, make_order(roots, plan, data))
    assert generation.number == 3
    assert list(visible(roots).values()) == [b"one"]


def race(monkeypatch: pytest.MonkeyPatch, roots: Roots, job: Job, plan: str, data: bytes) -> None:
    """Let another run publish ``plan`` just before this one's commit."""

    def lose(*arguments: Any) -> Generation:
        monkeypatch.undo()
        publish_plan(job, roots, make_order(roots, plan, data))
        return commit(*arguments)

    monkeypatch.setattr(publisher, "commit", lose)


def test_a_lost_race_against_another_plan_leads_to_the_next_generation(
    roots: Roots, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever loses generation n commits n + 1 on top, and only its parts are left."""
    race(monkeypatch, roots, job, PLAN_B, b"theirs")
    generation = publish_plan(job, roots, make_order(roots, PLAN_A, b"ours"))
    assert (generation.number, generation.document["previous"]) == (2, 1)
    assert visible(roots) == named(roots, generation)
    assert list(visible(roots).values()) == [b"ours"]


def test_a_lost_race_against_the_same_plan_returns_the_winners_generation(
    roots: Roots, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of one plan make one generation."""
    race(monkeypatch, roots, job, PLAN_A, b"ours")
    generation = publish_plan(job, roots, make_order(roots, PLAN_A, b"ours"))
    assert generation.number == 1
    assert not roots.state.exists(manifest_name(PARTITION, 2))


def test_parts_that_a_winner_has_retired_are_no_error(
    roots: Roots, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose plan another one published and cleaned up meanwhile returns that generation."""
    order = make_order(roots, PLAN_A, b"ours")
    check = check_gates

    def lose(*arguments: Any) -> None:
        monkeypatch.undo()
        publish_plan(job, roots, order)
        for shard in order.shards:
            assert shard.part
            roots.state.delete(shard.part.name)
        check(*arguments)

    monkeypatch.setattr(publisher, "check_gates", lose)
    assert publish_plan(job, roots, order).number == 1


def test_a_part_that_is_gone_publishes_nothing(roots: Roots, job: Job) -> None:
    """Without another run to explain it, a missing part is a typed error."""
    order = make_order(roots, PLAN_A, b"one")
    assert order.shards[0].part
    roots.state.delete(order.shards[0].part.name)
    with pytest.raises(StateError, match="is gone: run again"):
        publish_plan(job, roots, order)
    assert read_current(roots.state, PARTITION) is None


def test_a_part_that_was_damaged_since_publishes_nothing(roots: Roots, job: Job) -> None:
    """Bytes that do not fit their digest never become visible."""
    order = make_order(roots, PLAN_A, b"one", b"two")
    assert order.shards[1].part
    roots.state.put(order.shards[1].part.name, b"tw0")
    with pytest.raises(StateError, match="damaged: nothing was published"):
        publish_plan(job, roots, order)
    assert read_current(roots.state, PARTITION) is None
    assert b"tw0" not in visible(roots).values()


def test_a_strangers_file_under_a_parts_name_is_not_overwritten(roots: Roots, job: Job) -> None:
    """Another file where the part belongs is a typed error that names it."""
    order = make_order(roots, PLAN_A, b"one")
    assert order.shards[0].part
    name = f"{FOLDER}/part-00000-{order.shards[0].part.sha256[:8]}.parquet"
    roots.output.put_if_absent(name, b"theirs")
    with pytest.raises(StateError, match=name):
        publish_plan(job, roots, order)
    assert roots.output.read(name) == b"theirs"


# A store that fails at the commit.


def fail_at_manifest(
    monkeypatch: pytest.MonkeyPatch, roots: Roots, *, after: bool, unreadable: bool = False
) -> None:
    create, read = roots.state.put_if_absent, roots.state.read

    def fail(name: str, data: bytes) -> Put:
        if "/manifest/" not in name:
            return create(name, data)
        if after:
            create(name, data)
        raise OSError(5, "input/output error")

    def refuse(name: str) -> bytes:
        if name == manifest_name(PARTITION, 2):
            raise OSError(5, "input/output error")
        return read(name)

    monkeypatch.setattr(roots.state, "put_if_absent", fail)
    if unreadable:
        monkeypatch.setattr(roots.state, "read", refuse)


def test_a_commit_that_landed_although_it_failed_is_recognised(
    roots: Roots, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost answer is settled by reading back: our manifest there means that it landed."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"old"))
    fail_at_manifest(monkeypatch, roots, after=True)
    generation = publish_plan(job, roots, make_order(roots, PLAN_B, b"new"))
    assert generation.number == 2
    assert list(visible(roots).values()) == [b"new"]


@pytest.mark.parametrize("after", [True, False])
def test_a_commit_of_unknown_outcome_deletes_nothing(
    roots: Roots, job: Job, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """Where nobody can tell, both generations' parts stay, and running again settles it."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"old"))
    with monkeypatch.context() as patch:
        fail_at_manifest(patch, roots, after=after, unreadable=True)
        with pytest.raises(CommitUnknown, match="nothing was deleted; run again"):
            publish_plan(job, roots, make_order(roots, PLAN_B, b"new"))
    assert sorted(visible(roots).values()) == [b"new", b"old"]
    assert publish_plan(job, roots, make_order(roots, PLAN_B, b"new")).number == 2
    assert list(visible(roots).values()) == [b"new"]


# Gates.


def refuse_second(roots: Roots, job: Job, kind: type[Exception], match: str, **order: Any) -> None:
    """Publish one generation; check that the next is refused and nothing visible changes."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"old"))
    places = (roots.output.location, roots.rejected.location)
    before = snapshot(*places)
    with pytest.raises(kind, match=match):
        publish_plan(job, roots, make_order(roots, PLAN_B, b"new", **order))
    assert snapshot(*places) == before
    current = read_current(roots.state, PARTITION)
    assert current is not None
    assert (current.number, named(roots, current)) == (1, visible(roots))


def test_too_many_failed_documents_publish_nothing(roots: Roots, tmp_path: Path) -> None:
    """Over ``max_failed_fraction`` the old generation stays, byte for byte."""
    job = publishing_job(tmp_path, max_failed_fraction=0.19)
    refuse_second(roots, job, GateFailed, r"2 of 10 .*20\.00%, over", failed=2)


def test_a_failed_fraction_at_the_limit_passes(roots: Roots, tmp_path: Path) -> None:
    """The limit itself is allowed."""
    job = publishing_job(tmp_path, max_failed_fraction=0.2)
    assert publish_plan(job, roots, make_order(roots, PLAN_A, b"one", failed=2)).number == 1


def test_on_failed_fail_lets_no_failed_document_through(roots: Roots, tmp_path: Path) -> None:
    """With ``on_failed: fail`` one failed document is one too many."""
    job = publishing_job(tmp_path, on_failed="fail", max_failed_fraction=1)
    refuse_second(roots, job, GateFailed, "on_failed: fail", failed=1)


@pytest.mark.parametrize("wrong", [{"rows": 11}, {"documents": 9}, {"rows": 0, "documents": 0}])
def test_counts_that_do_not_add_up_publish_nothing(
    roots: Roots, job: Job, wrong: dict[str, int]
) -> None:
    """Parts that hold other than the planned rows or documents are never made visible."""
    refuse_second(roots, job, StateError, "nothing was published", **wrong)


# Tidying.


def test_a_damaged_old_manifest_stops_nothing_and_its_parts_stay(roots: Roots, job: Job) -> None:
    """What only an unreadable manifest names is not removed; newer generations go on."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"first"))
    publish_plan(job, roots, make_order(roots, PLAN_B, b"second"))
    roots.output.put_if_absent(f"{FOLDER}/part-kept.parquet", b"kept")
    roots.state.put(manifest_name(PARTITION, 1), b"{}")
    assert publish_plan(job, roots, make_order(roots, PLAN_C, b"third")).number == 3
    assert sorted(visible(roots).values()) == [b"kept", b"third"]


def test_a_damaged_current_manifest_is_a_typed_error(roots: Roots, job: Job) -> None:
    """Without knowing what is current nothing is published on top of it."""
    publish_plan(job, roots, make_order(roots, PLAN_A, b"first"))
    roots.state.put(manifest_name(PARTITION, 1), b"{}")
    with pytest.raises(StateError, match="damaged"):
        publish_plan(job, roots, make_order(roots, PLAN_B, b"second"))
    assert list(visible(roots).values()) == [b"first"]


def test_tidying_says_what_it_removed(roots: Roots, job: Job) -> None:
    """A second tidying finds nothing to do; before any generation there is nothing either."""
    assert tidy(roots, PARTITION, 1) == []
    publish_plan(job, roots, make_order(roots, PLAN_A, b"old"))
    old = next(iter(visible(roots)))
    publish_plan(job, roots, make_order(roots, PLAN_B, b"new"))
    assert not roots.output.exists(old)
    roots.output.put_if_absent(old, b"old")
    assert tidy(roots, PARTITION, 1) == [old]
    assert tidy(roots, PARTITION, 1) == []


def test_a_part_is_published_from_where_its_shard_left_it(roots: Roots, job: Job) -> None:
    """Publishing leaves the parts under state alone: removing them is a later step."""
    part = put_part(roots, PLAN_A, 0, b"one", 10)
    publish_plan(job, roots, make_order(roots, PLAN_A, b"one"))
    assert roots.state.read(part.name) == b"one"


def test_files_that_somebody_removed_are_put_back(roots: Roots, job: Job) -> None:
    """What is missing of the current table comes back from state; its generation stays the same."""
    order = make_order(roots, PLAN_A, b"one", b"two", rejected=b"bad")
    first = publish_plan(job, roots, order)
    before = visible(roots)
    roots.output.delete(first.parts[1].name)
    roots.rejected.delete(first.rejected[0].name)
    assert find_published(roots, PARTITION, PLAN_A) is not None
    assert publish_plan(job, roots, order).number == 1
    assert visible(roots) == before
    assert roots.rejected.exists(first.rejected[0].name)
    assert find_published(roots, PARTITION, PLAN_B) is None


def test_a_missing_file_without_a_copy_under_state_makes_its_plan_unpublished(
    roots: Roots, job: Job
) -> None:
    """Where nothing is left to put back, the plan has to be scored again: from paid scores."""
    order = make_order(roots, PLAN_A, b"one", b"two")
    first = publish_plan(job, roots, order)
    roots.output.delete(first.parts[1].name)
    roots.state.delete(first.parts[1].source or "")
    assert find_published(roots, PARTITION, PLAN_A) is None
    assert publish_plan(job, roots, make_order(roots, PLAN_A, b"one", b"two")).number == 1
    assert sorted(visible(roots).values()) == [b"one", b"two"]
