"""``run`` and ``plan``: their JSON, resuming, samples, cuts, partitions and layouts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.unit.cli.kit import (
    LISTS,
    Row,
    call,
    call_json,
    make_rows,
    merge,
    nest,
    read_stats,
    read_table,
    serve,
    set_up,
    write_job,
    write_table,
)

Capture = pytest.CaptureFixture[str]

KEYS = (
    *("plan_id", "partition", "rows_in", "rows_out", "rows_rejected", "queries", "pairs"),
    *("passages", "passages_reused", "passages_scored", "passages_failed", "requests"),
    *("search_units", "cost_usd", "seconds", "output", "manifest"),
)
OURS = (
    *("rerank_score", "rerank_rank", "rerank_first_stage_rank", "rerank_delta", "rerank_status"),
    *("rerank_error", "rerank_windows", "rerank_best_window", "rerank_truncated"),
    *("rerank_model", "rerank_provider"),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint."""
    with serve("--scorer", "instant") as address:
        yield address


def test_run_json_is_one_object_and_a_second_run_sends_nothing(
    tmp_path: Path, capsys: Capture, url: str
) -> None:
    """All keys are there, figures are the endpoint's own; the second run leaves all as it is."""
    before = read_stats(url)
    job = set_up(tmp_path, {"endpoint": {"url": url}})
    first = call_json(capsys, "run", job)
    assert set(KEYS) <= set(first)
    after = read_stats(url)
    assert first["requests"] == after["requests"] - before["requests"] == 3
    assert first["search_units"] == after["search_units"] - before["search_units"] == 3
    assert first["passages_scored"] == after["passages"] - before["passages"] == 12
    assert first["cost_usd"] == pytest.approx(0.003)
    assert (first["rows_in"], first["rows_out"], first["rows_rejected"]) == (12, 12, 0)
    assert (first["queries"], first["pairs"], first["passages"]) == (3, 12, 12)
    assert (first["passages_reused"], first["passages_failed"]) == (0, 0)
    assert first["partition"] == "_all"
    assert Path(first["output"]) == tmp_path / "out"
    assert Path(first["manifest"]).is_file()
    kept = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    second = call_json(capsys, "run", job)
    assert set(second) == set(first)
    assert (second["requests"], second["search_units"], second["cost_usd"]) == (0, 0, 0)
    for name in ("plan_id", "generation", "manifest", "statuses", "rows_out", "passages_scored"):
        assert second[name] == first[name]
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept
    assert read_stats(url) == after


def test_plan_json_promises_what_run_does(tmp_path: Path, capsys: Capture, url: str) -> None:
    """The plan has the run's keys and figures, and sends, freezes and publishes nothing."""
    before = read_stats(url)
    job = set_up(tmp_path, {"endpoint": {"url": url}}, make_rows(5, 30))
    plan = call_json(capsys, "plan", job)
    assert set(KEYS) <= set(plan)
    assert read_stats(url) == before
    assert not list(tmp_path.glob("out*/_all"))
    run = call_json(capsys, "run", job)
    same = set(KEYS) - {"seconds", "manifest"}
    assert {name: plan[name] for name in same} == {name: run[name] for name in same}
    assert plan["manifest"] is None
    done = call_json(capsys, "plan", job)
    assert (done["requests"], done["published"], done["plan_id"]) == (0, True, plan["plan_id"])


def test_json_stays_alone_on_stdout_while_progress_shows(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With live progress on a terminal, stdout holds the one object; all else goes to stderr."""
    monkeypatch.setattr(Console, "is_terminal", property(lambda _self: True))
    monkeypatch.setattr("rerank_jobs.cli.display.PLAIN_SECONDS", 0.0)
    job = set_up(tmp_path, rows=make_rows(30, 3))
    outcome = call(capsys, "run", job, "--json")
    assert outcome.code == 0
    assert outcome.json()["rows_out"] == 90
    assert "Plan " in outcome.err


def test_plain_lines_tell_plan_and_result(tmp_path: Path, capsys: Capture) -> None:
    """Without a terminal a run tells its promise, what it sent and where the table is."""
    outcome = call(capsys, "run", set_up(tmp_path))
    assert outcome.code == 0
    assert outcome.err == ""
    for words in ("12 in, 12 out", "3 requests", "12 scored", "Generation 1", str(tmp_path)):
        assert words in outcome.out
    again = call(capsys, "run", tmp_path / "job.yaml")
    assert "Already published as generation 1" in again.out
    assert "Sent: nothing" in again.out


def test_a_sample_is_paid_once_and_not_published(tmp_path: Path, capsys: Capture, url: str) -> None:
    """``--limit-queries`` scores some queries; the full run afterwards pays only for the others."""
    before = read_stats(url)
    rows = make_rows(10, 4)
    for row in rows:
        row["text"] += " of the sample"
    job = set_up(tmp_path, {"endpoint": {"url": url}}, rows)
    sample = call_json(capsys, "run", job, "--limit-queries", 4)
    assert (sample["requests"], sample["queries"], sample["rows_in"]) == (4, 4, 16)
    assert (sample["manifest"], sample["generation"]) == (None, None)
    assert Path(sample["output"]).is_file()
    assert not (tmp_path / "out").exists()
    assert call_json(capsys, "plan", job)["requests"] == 6
    full = call_json(capsys, "run", job)
    assert (full["requests"], full["passages_reused"], full["rows_out"]) == (6, 16, 40)
    assert full["statuses"] == {"scored": 24, "reused": 16, "single": 0, "failed": 0}
    after = read_stats(url)
    assert after["requests"] - before["requests"] == 10
    assert after["pairs_repeated"] == before["pairs_repeated"]
    scored = {row["doc_id"] + row["query_id"]: row["rerank_score"] for row in sample_rows(sample)}
    table = {r["doc_id"] + r["query_id"]: r["rerank_score"] for r in read_table(tmp_path / "out")}
    assert scored.items() <= table.items()
    assert call(capsys, "verify", job).code == 0


def sample_rows(sample: dict[str, Any]) -> list[Row]:
    """Return the rows of a sample's table."""
    return read_table(Path(sample["output"]).parent)


def test_a_sample_again_sends_nothing(tmp_path: Path, capsys: Capture) -> None:
    """The same sample of the same table is the same plan: the second costs nothing."""
    job = set_up(tmp_path)
    first = call_json(capsys, "run", job, "--limit-queries", 2)
    second = call_json(capsys, "run", job, "--limit-queries", 2)
    assert (first["requests"], second["requests"]) == (2, 0)
    assert first["plan_id"] == second["plan_id"]
    assert second["output"] == first["output"]


def test_a_sample_larger_than_the_table_is_the_table(tmp_path: Path, capsys: Capture) -> None:
    """A sample of more queries than there are takes all of them and still does not publish."""
    report = call_json(capsys, "run", set_up(tmp_path), "--limit-queries", 99)
    assert (report["queries"], report["generation"]) == (3, None)


def test_top_k_cuts_before_paying_and_is_counted(tmp_path: Path, capsys: Capture, url: str) -> None:
    """The cut rows are counted, leave the output, and the first-stage best of each query stay."""
    job = set_up(tmp_path, {"endpoint": {"url": url}, "candidates": {"top_k": 3}}, make_rows(4, 5))
    report = call_json(capsys, "run", job)
    names = ("rows_in", "rows_out", "rows_rejected", "candidates_cut", "passages")
    assert [report[name] for name in names] == [20, 12, 0, 8, 12]
    assert {row["rank"] for row in read_table(tmp_path / "out")} == {1, 2, 3}
    assert call(capsys, "verify", job).code == 0


def test_a_changed_table_makes_the_next_generation(tmp_path: Path, capsys: Capture) -> None:
    """New rows are a new plan: generation 2, and the folder holds its files alone."""
    job = set_up(tmp_path)
    first = call_json(capsys, "run", job)
    write_table(tmp_path / "candidates.parquet", make_rows(4))
    second = call_json(capsys, "run", job)
    assert (first["generation"], second["generation"]) == (1, 2)
    assert second["plan_id"] != first["plan_id"]
    assert len(read_table(tmp_path / "out")) == 16
    assert call(capsys, "verify", job).code == 0


def test_partitions_do_not_disturb_each_other(tmp_path: Path, capsys: Capture) -> None:
    """The template names the folder on both sides; one partition's run leaves the other's bytes."""
    job = write_job(
        tmp_path,
        {"input": {"path": "in/{partition}"}, "partition": {"template": "ds={key}"}},
    )
    one, two = "2026-11-21", "eu|2026-11-22"
    write_table(tmp_path / "in" / f"ds={one}" / "a.parquet", make_rows(2))
    write_table(tmp_path / "in" / f"ds={two}" / "a.parquet", make_rows(3))
    first = call_json(capsys, "run", job, "--partition", one)
    kept = read_table(tmp_path / "out" / f"ds={one}")
    second = call_json(capsys, "run", job, "--partition", two)
    assert (first["rows_out"], second["rows_out"]) == (8, 12)
    assert Path(second["output"]) == tmp_path / "out" / f"ds={two}"
    assert (first["partition"], second["partition"]) == (one, two)
    assert read_table(tmp_path / "out" / f"ds={one}") == kept
    assert call_json(capsys, "run", job, "--partition", one)["requests"] == 0
    for key in (one, two):
        assert call(capsys, "verify", job, "--partition", key).code == 0
    call(capsys, "verify", job, "--partition", "2026-11-23").assert_says(2, "2026-11-23", "run")


def test_hive_folders_become_string_columns(tmp_path: Path, capsys: Capture) -> None:
    """Folder names of a hive-partitioned input are columns of strings, zeros and all."""
    for lang, month in (("de", "01"), ("en", "11")):
        folder = tmp_path / "in" / f"lang={lang}" / f"month={month}"
        rows = [{**row, "query_id": f"{lang}-{row['query_id']}"} for row in make_rows(2, 3)]
        write_table(folder / "a.parquet", rows)
    job = write_job(tmp_path, {"input": {"path": "in"}})
    assert call_json(capsys, "run", job)["rows_out"] == 12
    written = read_table(tmp_path / "out")
    found = {(row["query_id"][:2], row["lang"], row["month"]) for row in written}
    assert found == {("de", "de", "01"), ("en", "en", "11")}


def test_a_folder_named_like_a_pattern_is_read_by_name(tmp_path: Path, capsys: Capture) -> None:
    """Brackets, stars, quotes and blanks in a path are letters, not patterns."""
    folder = "odd [1] *?'s {x}"
    write_table(tmp_path / folder / "a [2].parquet", make_rows())
    job = write_job(tmp_path, {"input": {"path": folder}, "output": {"path": "out [1] *'s {x}"}})
    assert call_json(capsys, "run", job)["rows_out"] == 12
    assert call(capsys, "verify", job).code == 0


def test_layout_long_keeps_every_column_and_adds_ours(tmp_path: Path, capsys: Capture) -> None:
    """Each row comes back whole, ranked 1..n by score, ties and deltas as the contract says."""
    rows = make_rows(4, 5)
    call_json(capsys, "run", set_up(tmp_path, rows=rows[::-1]))
    written = read_table(tmp_path / "out")
    assert tuple(written[0]) == (*rows[0], *OURS)
    by_key = {(row["query_id"], row["doc_id"]): row for row in rows}
    for row in written:
        source = by_key[row["query_id"], row["doc_id"]]
        assert {name: row[name] for name in source} == source
        assert row["rerank_first_stage_rank"] == source["rank"]
        assert row["rerank_delta"] == source["rank"] - row["rerank_rank"]
        assert (row["rerank_status"], row["rerank_windows"]) == ("scored", 1)
    check_order([row for row in written if row["query_id"] == "q2"])


def check_order(group: list[Row]) -> None:
    """Hold one group, in the order of the table, to ranks 1..n, score descending, ties stable."""
    assert [row["rerank_rank"] for row in group] == list(range(1, len(group) + 1))
    keys = [(-row["rerank_score"], row["rerank_first_stage_rank"]) for row in group]
    assert keys == sorted(keys)


@pytest.mark.parametrize("layout", ["nested", "search_log"])
def test_list_layouts_come_back_in_their_own_shape(
    tmp_path: Path, capsys: Capture, layout: str
) -> None:
    """Rows keep their columns and order; lists are reordered with our fields in their structs."""
    rows = nest(make_rows(3, 4))
    rows[1]["hits"] = []
    for number, row in enumerate(rows):
        row["shown_at"] = f"2026-11-2{number}"
    job = set_up(tmp_path, {"input": merge(LISTS, {"layout": layout})}, rows)
    report = call_json(capsys, "run", job)
    assert (report["rows_out"], report["candidates_out"]) == (3, 8)
    written = sorted(read_table(tmp_path / "out"), key=lambda row: row["query_id"])
    for source, row in zip(rows, written, strict=True):
        assert tuple(row) == tuple(source)
        assert {**row, "hits": None} == {**source, "hits": None}
        assert len(row["hits"]) == len(source["hits"])
        for hit in row["hits"]:
            assert tuple(hit) == ("doc_id", "text", "rank", "note", *OURS)
            assert {name: hit[name] for name in source["hits"][0]} in source["hits"]
        check_order(row["hits"])
    assert written[1]["hits"] == []
    assert call(capsys, "verify", job).code == 0


def test_a_search_log_needs_no_ids(tmp_path: Path, capsys: Capture, url: str) -> None:
    """Rows without query_id or search_id are ranked one by one; repeated searches cost once."""
    rows = [{"query": row["query"], "hits": row["hits"]} for row in nest(make_rows(3, 4))]
    rows = [*rows, *rows, rows[0]]
    log = merge(LISTS, {"layout": "search_log", "columns": {"position": "rank"}})
    job = set_up(tmp_path, {"input": log, "endpoint": {"url": url}}, rows)
    data = json.loads(json.dumps(log))
    changes = {"input": {**data, "columns": {**data["columns"], "query_id": None}}}
    job = write_job(tmp_path, {**changes, "endpoint": {"url": url}})
    report = call_json(capsys, "run", job)
    assert (report["rows_out"], report["queries"], report["requests"]) == (7, 3, 3)
    assert (report["candidates_out"], report["passages"]) == (28, 12)
    ranked: dict[str, set[str]] = {}
    for row in read_table(tmp_path / "out"):
        order = ",".join(hit["doc_id"] for hit in row["hits"])
        ranked.setdefault(row["query"], set()).add(order)
    assert all(len(orders) == 1 for orders in ranked.values())
    assert call(capsys, "verify", job).code == 0


def test_several_columns_are_sent_as_one_document(
    tmp_path: Path, capsys: Capture, url: str
) -> None:
    """Documents of several columns, a struct among them, are rendered and come back untouched."""
    rows = [{**row, "attributes": {"size": 3, "tags": ["a", "b"]}} for row in make_rows()]
    columns = {"document": ["note", "text", "attributes"]}
    changes = {"endpoint": {"url": url}, "input": {"columns": columns}}
    report = call_json(capsys, "run", set_up(tmp_path, changes, rows))
    assert (report["rows_out"], report["passages"]) == (12, 12)
    assert read_table(tmp_path / "out")[0]["attributes"] == {"size": 3, "tags": ["a", "b"]}


def test_one_candidate_is_ranked_for_free(tmp_path: Path, capsys: Capture, url: str) -> None:
    """A query with one candidate sends nothing and says so in its status."""
    before = read_stats(url)
    job = set_up(tmp_path, {"endpoint": {"url": url}}, make_rows(3, 1))
    report = call_json(capsys, "run", job)
    assert (report["requests"], report["rows_out"]) == (0, 3)
    assert read_stats(url) == before
    assert {row["rerank_status"] for row in read_table(tmp_path / "out")} == {"single"}


def test_another_model_or_revision_is_never_reused(
    tmp_path: Path, capsys: Capture, url: str
) -> None:
    """Scores of one model, revision or the embedded scorer never answer for another."""
    job = set_up(tmp_path)
    assert call_json(capsys, "run", job)["requests"] == 3
    for endpoint in ({"url": url}, {"url": url, "revision": "2"}, {"url": url, "model": "m-2"}):
        job = write_job(tmp_path, {"endpoint": endpoint})
        report = call_json(capsys, "run", job)
        assert (report["requests"], report["passages_reused"]) == (3, 0)
    assert call_json(capsys, "plan", write_job(tmp_path))["requests"] == 0
