"""Ranking guards: figures from scores and tables, and nothing published beyond a limit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.config import Job
from rerank_jobs.errors import GateFailed
from rerank_jobs.job import open_roots, run_partition
from rerank_jobs.parts import read_done
from rerank_jobs.publish.gates import check_guards
from rerank_jobs.publish.generations import read_current
from rerank_jobs.publish.ranking import compare_firsts, count_ranking, read_firsts
from rerank_jobs.publish.verify import verify_generation
from rerank_jobs.storage import LocalStore, read_json, seal_json
from tests.builders import make_job, make_rows, write_rows
from tests.unit.publish.kit import make_order, make_roots

COLUMNS = {"query_id": "query_id", "document_id": "doc_id", "candidates": "hits", "query": "query"}


def documents(*groups: list[tuple[int, float | None]]) -> pa.Table:
    """Return documents of groups, each given in rank order as (first-stage rank, score)."""
    rows = [
        {
            "grp": number,
            "rerank_rank": rank,
            "rerank_first_stage_rank": first_stage,
            "rerank_score": score,
        }
        for number, group in enumerate(groups)
        for rank, (first_stage, score) in enumerate(group, 1)
    ]
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize(
    ("group", "counted"),
    [
        ([(1, None)], (0, 0, 0, 0)),
        ([(1, 0.9), (2, 0.1)], (1, 0, 1, 0)),
        ([(2, 0.9), (1, 0.1)], (1, 1, 1, 0)),
        ([(1, 0.5), (2, 0.5)], (1, 0, 1, 1)),
        ([(1, 0.5), (2, None)], (1, 0, 0, 0)),
        ([(3, 0.5), (1, 0.5), (2, None)], (1, 1, 1, 1)),
        ([(1, None), (2, None)], (1, 0, 0, 0)),
    ],
)
def test_a_group_counts_where_there_was_something_to_decide(
    group: list[tuple[int, float | None]], counted: tuple[int, ...]
) -> None:
    """Single candidates have no first to choose, and one score alone is not equal to others."""
    with duckdb.connect() as con:
        con.register("documents", documents(group, [(1, 0.9), (2, 0.1)]))
        found = tuple(count_ranking(con, "documents").values())
    assert found == (counted[0] + 1, counted[1], counted[2] + 1, counted[3])


def test_no_documents_count_nothing() -> None:
    """A shard without rows has figures too: zeros."""
    with duckdb.connect() as con:
        con.register("documents", documents([(1, 0.5)]).slice(0, 0))
        assert set(count_ranking(con, "documents").values()) == {0}


def firsts(**first: str) -> pa.Table:
    return pa.table({"key": list(first), "first": list(first.values())})


def test_groups_of_two_generations_are_matched_by_name(tmp_path: Path) -> None:
    """Only groups that both have count; a changed first document is found."""
    now, before = firsts(a="1", b="2", c="3"), firsts(b="2", c="9", d="4")
    assert compare_firsts(now, before, str(tmp_path), 10**9) == (2, 1)
    assert compare_firsts(now, before.slice(0, 0), str(tmp_path), 10**9) == (0, 0)


def test_a_name_of_several_groups_matches_any_of_their_firsts(tmp_path: Path) -> None:
    """A query that a log holds often changed only where its first document is none of before's."""
    now = pa.table({"key": ["q", "q", "q"], "first": ["1", "2", "3"]})
    before = pa.table({"key": ["q", "q", "q"], "first": ["1", "2", "1"]})
    assert compare_firsts(now, before, str(tmp_path), 10**9) == (3, 1)


def test_firsts_of_a_long_table_are_the_rows_of_rank_1(tmp_path: Path) -> None:
    """Ids of any type become text; a group without a name is left out."""
    rows = [
        {"query_id": query, "doc_id": document, "rerank_rank": rank}
        for query, document, rank in ((7, 71, 1), (7, 72, 2), (8, 81, 2), (8, 82, 1), (None, 1, 1))
    ]
    path = write_rows(tmp_path / "part.parquet", rows)
    found = read_firsts([path], "long", {**COLUMNS, "candidates": None})
    assert found.to_pylist() == [{"key": "7", "first": "71"}, {"key": "8", "first": "82"}]


@pytest.mark.parametrize(
    ("layout", "columns", "keys"),
    [
        ("nested", COLUMNS, ["a", "b"]),
        ("nested", {**COLUMNS, "query_id": None}, ["shoes", "boots"]),
        ("search_log", {**COLUMNS, "search_id": "search"}, ["s1", "s2"]),
    ],
)
def test_firsts_of_lists_are_their_first_elements(
    tmp_path: Path, layout: str, columns: dict[str, Any], keys: list[str]
) -> None:
    """Empty and null lists have none; the group is named by id, or by its query."""
    hits = [[{"doc_id": "d2", "text": "x"}, {"doc_id": "d1", "text": "y"}], [], None]
    hits.append([{"doc_id": "d9", "text": "z"}])
    table = pa.table(
        {
            "search": ["s1", "s0", "s0", "s2"],
            "query_id": ["a", "x", "y", "b"],
            "query": ["shoes", "x", "y", "boots"],
            "hits": hits,
        }
    )
    pq.write_table(table, tmp_path / "part.parquet")
    found = read_firsts([tmp_path / "part.parquet"], layout, columns)
    assert found.column("key").to_pylist() == keys
    assert found.column("first").to_pylist() == ["d2", "d9"]


# Through a whole job.


def guarded(folder: Path, **publish: Any) -> Job:
    return make_job(folder, publish=publish)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_rows(tmp_path / "candidates.parquet", make_rows(8, 5))
    return make_job(tmp_path)


def test_the_manifest_says_how_the_ranking_moved(job: Job) -> None:
    """Its figures are those of the published table, and ``verify`` counts them again."""
    generation = run_partition(job).generation
    assert generation is not None
    table = pa.concat_tables(
        [pq.read_table(path) for path in Path(job.output_root).glob("*.parquet")]
    )
    tops = table.filter(pa.compute.equal(table.column("rerank_rank"), pa.scalar(1)))
    changed = sum(rank != 1 for rank in tops.column("rerank_first_stage_rank").to_pylist())
    figures = generation.document["ranking"]
    assert (figures["groups"], figures["top1_changed"]) == (8, changed)
    roots = open_roots(job)
    assert verify_generation(job, roots, generation).problems == ()
    document = {**generation.document, "ranking": {**figures, "top1_changed": changed + 1}}
    wrong = dataclasses.replace(generation, document=document)
    (problem,) = verify_generation(job, roots, wrong).problems
    assert "the ranking moved by" in problem


def test_a_guard_that_trips_publishes_nothing_and_raising_it_costs_nothing(
    job: Job, tmp_path: Path
) -> None:
    """The message has figure, limit and place; the next run with a higher limit sends nothing."""
    with pytest.raises(GateFailed, match=r"over publish.max_top1_changed 0.00%") as caught:
        run_partition(guarded(tmp_path, max_top1_changed=0))
    assert " of 8 groups begin with another document than in the first stage" in str(caught.value)
    assert "nothing is paid again" in str(caught.value)
    state = LocalStore(job.state_root)
    assert read_current(state, "_all") is None
    folder = str(caught.value).partition("the parts in ")[2].partition(",")[0]
    assert list(Path(folder).glob("*/part-*.parquet"))
    result = run_partition(guarded(tmp_path, max_top1_changed=1))
    assert result.totals.requests == 0
    assert result.generation is not None
    assert result.generation.number == 1


def test_equal_scores_trip_their_guard(tmp_path: Path) -> None:
    """Groups whose documents all have one text, so one score, are found."""
    rows = make_rows(4, 3)
    for row in rows:
        if row["query_id"] == "q0001":
            row["document"] = "the same text"
    write_rows(tmp_path / "candidates.parquet", rows)
    with pytest.raises(GateFailed, match=r"1 of 4 groups have one score .* \(25.00%, over"):
        run_partition(guarded(tmp_path, max_all_equal=0.24))
    assert run_partition(guarded(tmp_path, max_all_equal=0.25)).generation is not None


def test_the_previous_generation_is_compared_by_query_id(job: Job, tmp_path: Path) -> None:
    """Groups that both have and that begin with another document are counted, new ones are not."""
    first = run_partition(guarded(tmp_path, max_top1_changed_since=0)).generation
    assert first is not None
    assert "since" not in first.document["ranking"]
    published = pq.read_table(next(Path(job.output_root).glob("*.parquet"))).to_pylist()
    tops = {row["query_id"]: row["document_id"] for row in published if row["rerank_rank"] == 1}
    kept = [
        row
        for row in make_rows(8, 5)
        if row["query_id"] > "q0001" and row["document_id"] != tops["q0005"]
    ]
    new = [{**row, "query_id": f"new{row['query_id']}"} for row in make_rows(2, 5, seed=9)]
    write_rows(tmp_path / "candidates.parquet", [*kept, *new])
    with pytest.raises(GateFailed, match=r"1 of 6 groups .* than in generation 1 \(16.67%"):
        run_partition(guarded(tmp_path, max_top1_changed_since=0.1))
    second = run_partition(guarded(tmp_path, max_top1_changed_since=0.2)).generation
    assert second is not None
    figures = second.document["ranking"]
    assert (figures["since"], figures["since_groups"], figures["since_changed"]) == (1, 6, 1)


def test_a_previous_table_that_is_gone_is_read_from_state_or_trips_the_guard(
    job: Job, tmp_path: Path
) -> None:
    """Without the table and without its copy nobody can tell, and nothing is published."""
    first = run_partition(job).generation
    assert first is not None
    write_rows(tmp_path / "candidates.parquet", make_rows(8, 4))
    (tmp_path / "out" / first.parts[0].name).unlink()
    source = tmp_path / "out.state" / (first.parts[0].source or "")
    moved = source.rename(tmp_path / "away")
    with pytest.raises(GateFailed, match=r"nobody can tell .* since generation 1"):
        run_partition(guarded(tmp_path, max_top1_changed_since=1))
    moved.rename(source)
    assert run_partition(guarded(tmp_path, max_top1_changed_since=1)).generation is not None


def test_a_done_record_of_an_earlier_version_is_read_and_counted_again(
    job: Job, tmp_path: Path
) -> None:
    """Without figures in ``done.json`` a guard counts the part; without a guard nothing is told."""
    with pytest.raises(GateFailed):
        run_partition(guarded(tmp_path, max_top1_changed=0))
    state = LocalStore(job.state_root)
    (name,) = (e.name for e in state.entries("_all/run") if e.name.endswith("/done.json"))
    done = read_json(state, name)
    ranking = done.pop("ranking")
    state.put(name, seal_json(done))
    part = read_done(state, name.rpartition("/")[0])
    assert part is not None
    assert part.ranking is None
    with pytest.raises(GateFailed, match=f"{ranking['top1_changed']} of 8 groups"):
        run_partition(guarded(tmp_path, max_top1_changed=0))
    generation = run_partition(job).generation
    assert generation is not None
    assert "ranking" not in generation.document


def test_guards_are_off_by_default(tmp_path: Path) -> None:
    """A table that moved everywhere passes where nobody set a limit."""
    roots = make_roots(tmp_path)
    order = make_order(roots, "a" * 32, b"one")
    moved = {"groups": 9, "top1_changed": 9, "scored_groups": 9, "all_equal": 9}
    shards = [dataclasses.replace(shard, ranking=moved) for shard in order.shards]
    order = dataclasses.replace(order, shards=shards)
    assert check_guards(make_job(tmp_path), roots, order, None) == moved
