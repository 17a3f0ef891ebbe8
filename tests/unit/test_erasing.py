"""Erasure: what was erased is found nowhere, and everything else is as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rerank_jobs.collecting import collect
from rerank_jobs.config import Job
from rerank_jobs.erasing import erase
from rerank_jobs.errors import Busy, JobError, StateError
from rerank_jobs.job import open_roots, plan_partition, run_partition
from rerank_jobs.ledger.claims import acquire
from rerank_jobs.ledger.loading import load_segments
from rerank_jobs.ledger.spending import count_spending
from rerank_jobs.plan.frozen import run_folder
from rerank_jobs.publish.generations import read_current, read_generations
from rerank_jobs.publish.retention import is_retained
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.storage import LocalStore
from rerank_jobs.tables.matching import Wanted
from tests.builders import read_output
from tests.unit.erasure_kit import (
    DOCUMENT,
    DOCUMENT_ID,
    QUERY,
    QUERY_ID,
    files_with,
    kept_files,
    key_of,
    make_canary_rows,
    make_layout_job,
    put_input,
    read_everything,
    spread_canaries,
)

QUERY_WANTED = Wanted("query_id", frozenset({QUERY_ID}))
DOCUMENT_WANTED = Wanted("document_id", frozenset({DOCUMENT_ID}))
TEXT_WANTED = Wanted("text", frozenset({QUERY, DOCUMENT}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a folder in which a job of a layout has left canaries everywhere; made once."""
    made: dict[str, Path] = {}

    def make(layout: str) -> Path:
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp(layout)
            spread_canaries(make_layout_job(made[layout], layout))
        return made[layout]

    return make


@pytest.fixture
def take(prepared: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Job]:
    """Return a job of a layout over a copy of such a folder."""

    def copy(layout: str) -> Job:
        target = tmp_path / "job"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(prepared(layout), target)
        return make_layout_job(target, layout)

    return copy


def needles_of(job: Job, wanted: Wanted) -> list[bytes]:
    """Return what must be found nowhere: texts, ids and keys as far as the layout has them."""
    query = [b"canaryquagga", QUERY_ID.encode(), key_of(job, QUERY)]
    if wanted.kind == "query_id":
        return query
    # Rendered from two columns, a document has another key, which its passages' test covers.
    document = [] if job.input.layout == "nested" else [key_of(job, DOCUMENT)]
    if wanted.kind == "document_id":
        return [b"canarydodo", DOCUMENT_ID.encode(), *document]
    return [*query, DOCUMENT.encode(), *document]


def check_erased(job: Job, wanted: Wanted, *, rerun: bool = True) -> None:
    """Check that nothing is found, that the table verifies and that a rerun sends nothing."""
    assert files_with(job, *needles_of(job, wanted)) == []
    roots = open_roots(job)
    current = read_current(roots.state, "_all")
    assert current is not None
    assert verify_generation(job, roots, current).problems == ()
    if not rerun:
        return
    again = run_partition(job)
    assert again.totals.requests == 0
    assert again.generation is not None
    assert again.generation.number == current.number
    assert files_with(job, *needles_of(job, wanted)) == []


CASES = [
    pytest.param(
        layout,
        wanted,
        id=f"{layout}-{wanted.kind}",
        marks=[] if (layout, wanted.kind) == ("long", "query_id") else [pytest.mark.slow],
    )
    for layout in ("long", "nested", "search_log")
    for wanted in (QUERY_WANTED, DOCUMENT_WANTED, TEXT_WANTED)
    if (layout, wanted.kind) != ("search_log", "query_id")
]


@pytest.mark.parametrize(("layout", "wanted"), CASES)
def test_what_is_erased_is_found_nowhere(
    take: Callable[[str], Job], layout: str, wanted: Wanted
) -> None:
    """A dry run touches nothing and tells what erasing then does; no text, id or key is left."""
    job = take(layout)
    needles = needles_of(job, wanted)
    holding = files_with(job, *needles)
    assert len(holding) >= 5
    told = erase(job, wanted)
    # The dry run has only cleared a dead process's scratch space away.
    assert files_with(job, *needles) == [name for name in holding if "scratch-left" not in name]
    done = erase(job, wanted, write=True)
    (partition,) = done.partitions
    assert partition.generation == 3
    assert (partition.rows, partition.documents, partition.rejected) == (
        told.partitions[0].rows,
        told.partitions[0].documents,
        told.partitions[0].rejected,
    )
    assert partition.documents > 0
    assert partition.plans == told.partitions[0].plans == 2
    assert done.library == told.library
    assert done.library.pairs > 0
    check_erased(job, wanted)


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def dying(patch: pytest.MonkeyPatch, call: int, *, after: bool) -> Iterator[list[str]]:
    """Let the process die at the n-th change of a store; yield the names of calls so far."""
    calls: list[str] = []

    def wrap(name: str) -> None:
        real = getattr(LocalStore, name)

        def change(store: LocalStore, *arguments: Any) -> Any:
            calls.append(name)
            if len(calls) == call and after:
                real(store, *arguments)
            if len(calls) >= call:
                raise Killed
            return real(store, *arguments)

        patch.setattr(LocalStore, name, change)

    with patch.context():
        for name in ("put_if_absent", "put_file_if_absent", "put", "replace", "delete"):
            wrap(name)
        yield calls
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_erasure_that_was_killed_anywhere_is_completed_by_the_next(
    take: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """Killed at each change of a store in turn, the same command again leaves nothing behind."""
    call, finished = 0, False
    while not finished:
        call += 1
        job = take("long")
        with dying(monkeypatch, call, after=after):
            try:
                erase(job, QUERY_WANTED, write=True)
                finished = True
            except Killed:
                pass
        erase(job, QUERY_WANTED, write=True)
        check_erased(job, QUERY_WANTED, rerun=finished or call % 10 == 0)
    print(f"{call - 1} changes, died at each")
    assert call > 20


@pytest.mark.slow
def test_rows_that_are_not_erased_stay_as_they_were(take: Callable[[str], Job]) -> None:
    """Of other groups every value is the same; money and replies in the ledger too."""
    job = take("long")
    before, money = read_output(job), spend(job)
    erase(job, QUERY_WANTED, write=True)
    kept = before.filter(pc.not_equal(before.column("query_id"), pa.scalar(QUERY_ID)))
    assert read_output(job).equals(kept)
    assert spend(job) == money


def spend(job: Job) -> tuple[tuple[float, ...], int]:
    state = open_roots(job).state
    replies = load_segments(state, "_all/run").spent.requests
    return count_spending(state, [0.0, 1e9], 2e9, ours="-").paid_usd, replies


@pytest.mark.slow
def test_lists_close_up_where_a_document_is_erased(take: Callable[[str], Job]) -> None:
    """Ranks and first-stage ranks of the others are 1..n in their former order."""
    job = take("nested")
    before = {row["query_id"]: row["results"] for row in read_output(job).to_pylist()}
    erase(job, DOCUMENT_WANTED, write=True)
    for row in read_output(job).to_pylist():
        results = row["results"]
        former = [one for one in before[row["query_id"]] if one["id"] != DOCUMENT_ID]
        assert [one["id"] for one in results] == [one["id"] for one in former]
        assert [one["rerank_rank"] for one in results] == list(range(1, len(results) + 1))
        order = sorted(results, key=lambda one: one["rerank_first_stage_rank"])
        assert order == sorted(results, key=lambda one: -one["score"])
        assert [one["rerank_score"] for one in results] == [one["rerank_score"] for one in former]


@pytest.mark.slow
def test_generations_that_held_it_cannot_be_gone_back_to(take: Callable[[str], Job]) -> None:
    """Only the new generation's parts are left; the earlier manifests stay as history."""
    job = take("long")
    erase(job, QUERY_WANTED, write=True)
    state = open_roots(job).state
    generations = read_generations(state, "_all")
    assert [is_retained(state, one) for one in generations] == [False, False, True]
    assert generations[-1].document["erased"] == {"rows": 5, "documents": 5, "rejected": 1}
    assert generations[-1].plan_id == generations[-2].plan_id


@pytest.mark.slow
def test_erasing_what_is_nowhere_changes_nothing(take: Callable[[str], Job]) -> None:
    """An id that no file holds touches no partition, and a second erasure none either."""
    job = take("long")
    erase(job, QUERY_WANTED, write=True)
    before = {path: path.read_bytes() for path in kept_files(job)}
    for wanted in (QUERY_WANTED, Wanted("document_id", frozenset({"no such"}))):
        done = erase(job, wanted, write=True)
        assert (done.partitions, done.library.pairs) == ((), 0)
    assert {path: path.read_bytes() for path in kept_files(job)} == before


def test_a_live_run_is_left_alone(take: Callable[[str], Job]) -> None:
    """While another owner scores a plan that holds it, erasing is refused and changes nothing."""
    job = take("long")
    put_input(job, make_canary_rows(4))
    plan = plan_partition(job).plan
    assert plan is not None
    state = open_roots(job).state
    owner = {"kind": "airflow", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 0}
    folder = run_folder("_all", plan.plan_id, 0)
    with acquire(state, folder, owner):
        before = {path: path.read_bytes() for path in kept_files(job) if "claim" not in str(path)}
        with pytest.raises(Busy, match="at work"):
            erase(job, QUERY_WANTED, write=True)
        after = {path: path.read_bytes() for path in kept_files(job) if "claim" not in str(path)}
    assert {p: b for p, b in before.items() if p in after} == after
    assert all("scratch" in str(path) for path in before.keys() - after.keys())
    erase(job, QUERY_WANTED, write=True)
    assert files_with(job, *needles_of(job, QUERY_WANTED)) == []


@pytest.mark.slow
def test_a_log_without_query_ids_says_so(take: Callable[[str], Job]) -> None:
    """Asked for a query by its id, a job whose table has none names the other way."""
    with pytest.raises(JobError, match="--text-file"):
        erase(take("search_log"), QUERY_WANTED)


def test_without_state_there_is_nothing_to_erase(tmp_path: Path) -> None:
    """A job that never ran is told apart from one that holds nothing."""
    with pytest.raises(StateError, match="no state"):
        erase(make_layout_job(tmp_path, "long"), QUERY_WANTED)


def test_what_is_wanted_is_not_shown() -> None:
    """The representation of a wish holds neither id nor text: it may end up in a traceback."""
    kinds: tuple[Literal["query_id", "text"], ...] = ("query_id", "text")
    assert all("canary" not in repr(Wanted(kind, frozenset({"canary"}))) for kind in kinds)


@pytest.mark.slow
def test_an_erased_part_has_the_schema_of_the_others(take: Callable[[str], Job]) -> None:
    """A rewritten file has the types and names that it had."""
    job = take("nested")
    (before,) = [pq.read_schema(path) for path in Path(job.output_root).glob("*.parquet")]
    erase(job, DOCUMENT_WANTED, write=True)
    (after,) = [pq.read_schema(path) for path in Path(job.output_root).glob("*.parquet")]
    assert after.equals(before)


@pytest.mark.slow
def test_in_a_bucket_it_is_found_nowhere_either(tmp_path: Path) -> None:
    """Erasing and collecting work on object stores: no object holds the query or its key."""
    name = tmp_path.parent.name + tmp_path.name
    job = make_layout_job(
        tmp_path,
        "long",
        output={"path": f"memory://{name}/out"},
        state={"path": f"memory://{name}/state"},
    )
    for seed in (1, 2):
        put_input(job, make_canary_rows(seed))
        run_partition(job)
    put_input(job, make_canary_rows(3))
    assert plan_partition(job).plan is not None
    put_input(job, make_canary_rows(2))
    roots = open_roots(job)
    needles = needles_of(job, QUERY_WANTED)

    def search() -> list[str]:
        found = []
        for store in (roots.output, roots.rejected, roots.state):
            for entry in store.entries():
                path = tmp_path / f"copy{Path(entry.name).suffix}"
                path.write_bytes(store.read(entry.name))
                if any(needle in read_everything(path) for needle in needles):
                    found.append(entry.name)
        return found

    assert len(search()) >= 8
    assert collect(job, grace=0.0, delete=True).garbage
    erase(job, QUERY_WANTED, write=True)
    assert search() == []
    current = read_current(roots.state, "_all")
    assert current is not None
    assert verify_generation(job, roots, current).problems == ()
    assert run_partition(job).totals.requests == 0
