"""Enrichment of search logs: figures of real clicks, what is paid, what is written where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
import yaml

from rerank_jobs.contracts import arrow_schema
from rerank_jobs.enriching import enrich_partition
from rerank_jobs.erasing import erase
from rerank_jobs.job import run_partition
from rerank_jobs.job_file import load_job, parse_job
from rerank_jobs.storage import LocalStore, open_store
from rerank_jobs.tables.matching import Wanted
from tests.builders import LOG_COLUMNS
from tests.click_oracle import describe_day, describe_search
from tests.log_kit import COLUMNS, make_searches, read_files, write_log_job, write_searches
from tests.unit.cli.kit import CANARIES, Row, call, call_json, merge, read_stats, serve

Capture = pytest.CaptureFixture[str]

DAY = "2026-11-22"


def read_summary(folder: Path, kind: str, day: str = DAY) -> list[Row]:
    """Return the rows of the one file of a kind of summary."""
    (path,) = (folder / "out.summaries" / kind / f"ds={day}").iterdir()
    rows: list[Row] = pq.ParquetFile(path).read().to_pylist()
    return rows


def read_published(folder: Path, day: str = DAY) -> list[Row]:
    """Return the published searches in the order of files and rows."""
    paths = sorted((folder / "out" / f"ds={day}").glob("*.parquet"))
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


def set_up(folder: Path, searches: list[Row] | None = None, **parts: Any) -> Path:
    """Write a log of one day and its job, run it, and return the job file."""
    write_searches(folder, DAY, make_searches() if searches is None else searches)
    path = write_log_job(folder, **parts)
    run_partition(load_job(path), DAY)
    return path


@pytest.fixture(scope="module")
def enriched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose log of several parts is published and summarised."""
    folder = tmp_path_factory.mktemp("enriched")
    job = set_up(folder, make_searches(30, clicks=2), shards={"rows_per_shard": 10})
    assert enrich_partition(load_job(job), DAY).changed
    return folder


def test_real_clicks_before_and_after(shared_data: Path, tmp_path: Path) -> None:
    """On the real log every reciprocal rank is the one that input and output give by themselves."""
    table = shared_data / "trec_session_log" / "search_log.parquet"
    data = {
        "name": "log",
        "input": {"path": str(table), "layout": "search_log", "columns": LOG_COLUMNS},
        "output": {"path": "out"},
    }
    job = parse_job(data, base=tmp_path)
    run_partition(job)
    found = enrich_partition(job)
    searches = {row["query_id"]: row for row in pq.read_table(found.searches_path).to_pylist()}

    # The input says what was clicked and where it stood; the output, where it stands.
    reranked = {
        row["query_id"]: {one["doc_id"]: one["rerank_rank"] for one in row["results"]}
        for row in pq.read_table(tmp_path / "out").to_pylist()
    }
    before, after = {}, {}
    for row in pq.read_table(table).to_pylist():
        clicked = [one for one in row["results"] if one["clicked"]]
        if clicked:
            before[row["query_id"]] = 1 / min(one["position"] for one in clicked)
            after[row["query_id"]] = 1 / min(
                reranked[row["query_id"]][one["doc_id"]] for one in clicked
            )

    assert len(searches) == found.day["searches"] == 401
    assert len(before) == found.day["searches_with_clicks"] == 249
    for old, name in ((before, "click_rr_before"), (after, "click_rr_after")):
        assert {key: row[name] for key, row in searches.items() if row["clicks"]} == old
    figures = {
        "click_mrr_before": fmean(before.values()),
        "click_mrr_after": fmean(after.values()),
        "improved_share": fmean(after[key] > before[key] for key in before),
        "worsened_share": fmean(after[key] < before[key] for key in before),
        "same_share": fmean(after[key] == before[key] for key in before),
    }
    print("\nreal clicks: " + ", ".join(f"{name} {one:.4f}" for name, one in figures.items()))
    for name, value in figures.items():
        assert found.day[name] == pytest.approx(value, abs=1e-9)
    assert figures["click_mrr_before"] == pytest.approx(0.6439, abs=0.0001)


def test_summaries_of_a_log_are_those_of_its_published_rows(enriched: Path) -> None:
    """Rows of both tables equal what plain Python finds in the published table, and name it."""
    found = enrich_partition(load_job(enriched / "job.yaml"), DAY)
    published = read_published(enriched)
    wanted = [describe_search(row["results"]) for row in published]

    rows, (day,) = read_summary(enriched, "searches"), read_summary(enriched, "days")
    parts = {path.name: pq.ParquetFile(path).read().to_pylist() for path in list_parts(enriched)}
    assert len(parts) > 1
    assert [{name: row[name] for name in wanted[0]} for row in rows] == wanted
    assert [row["search_id"] for row in rows] == [row["search_id"] for row in published]
    assert [row["searched_at"] for row in rows] == [row["at"] for row in published]
    assert [parts[row["part"]][row["row"]]["search_id"] for row in rows] == [
        row["search_id"] for row in published
    ]
    assert {(row["partition"], row["generation"]) for row in rows} == {(DAY, 1)}
    assert day == found.day
    for name, value in describe_day(wanted).items():
        assert day[name] == pytest.approx(value, abs=1e-9), name
    assert (day["queries"], day["model"], day["generation"]) == (4, "embedded", 1)


def list_parts(folder: Path) -> list[Path]:
    return sorted((folder / "out" / f"ds={DAY}").glob("*.parquet"))


def test_files_have_the_types_of_their_contracts_and_hold_no_text(enriched: Path) -> None:
    """Both files carry exactly their contract's columns; no query and no document is in them."""
    found = enrich_partition(load_job(enriched / "job.yaml"), DAY)
    for path, name in (
        (found.searches_path, "search_summary"),
        (found.day_path, "day_summary"),
    ):
        table = pq.ParquetFile(path).read()
        assert table.schema.names == arrow_schema(name).names
        assert table.schema.types == arrow_schema(name).types
        shown = str(table.to_pylist())
        assert not any(canary in shown for canary in CANARIES)


def test_clicks_on_what_is_not_ranked(tmp_path: Path) -> None:
    """Rejected clicked results are counted apart, cut ones nowhere; searches without any stay."""
    searches = make_searches(6, results=4, queries=3)
    first, second, third, fourth, fifth, sixth = (row["results"] for row in searches)
    first[0]["title"] = first[0]["snippet"] = " "  # a blank document, clicked
    second.append({**second[1], "position": 5, "clicked": True})  # twice in a list, clicked twice
    third[:] = []
    for one in fourth:
        one["clicked"] = False
    fifth[:] = fifth[:1]
    fifth[0]["clicked"] = True
    searches[5]["query"] = " "  # a rejected search, with a click
    sixth[0]["clicked"] = True
    sixth[1]["clicked"] = False
    set_up(tmp_path, searches, candidates={"top_k": 3})
    day = enrich_partition(load_job(tmp_path / "job.yaml"), DAY).day
    rows = {row["search_id"]: row for row in read_summary(tmp_path, "searches")}

    assert (day["searches"], day["searches_rejected"]) == (5, 1)
    assert (day["searches_with_results"], day["searches_with_choice"]) == (4, 3)
    assert (day["searches_with_clicks"], day["clicks"], day["clicks_rejected"]) == (2, 2, 3)
    assert day["results_cut"] == 2
    assert [rows[name]["clicks"] for name in ("s0", "s1", "s2", "s3", "s4")] == [0, 1, 0, 0, 1]
    assert rows["s0"]["click_rr_before"] is None
    assert (rows["s2"]["results"], rows["s2"]["top1_changed"]) == (0, None)
    assert (rows["s4"]["single"], rows["s4"]["click_rr_after"]) == (1, 1.0)


def test_a_clicked_result_that_failed_counts_where_it_stands(tmp_path: Path) -> None:
    """A refused result keeps its click, behind the scored ones, and is counted by its status."""
    searches = make_searches(2, results=3, queries=2)
    searches[0]["results"][0]["snippet"] = "too long to be seen whole " * 60
    set_up(
        tmp_path,
        searches,
        context={"tokens": 64, "overlap_tokens": 0, "long_documents": "fail"},
        failures={"max_failed_fraction": 1.0},
    )
    day = enrich_partition(load_job(tmp_path / "job.yaml"), DAY).day
    row = next(row for row in read_summary(tmp_path, "searches") if row["search_id"] == "s0")
    assert (day["failed"], day["clicks_failed"]) == (1, 1)
    assert (row["clicked_ranks_before"], row["clicked_ranks_after"]) == ([1], [3])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint at the price of the API."""
    with serve("--scorer", "instant", "--usd-per-search", "0.001") as address:
        yield address


def test_a_query_that_occurs_a_thousand_times_is_paid_once(tmp_path: Path, url: str) -> None:
    """A thousand searches of one query send one request and pay one unit; each has its own row."""
    searches = make_searches(1000, results=4, queries=1)
    before = read_stats(url)
    endpoint = {"url": url, "usd_per_search": 0.001}
    set_up(tmp_path, searches, endpoint=endpoint, shards={"rows_per_shard": 100})
    after = read_stats(url)
    day = enrich_partition(load_job(tmp_path / "job.yaml"), DAY).day

    assert after["passages"] - before["passages"] == 4
    assert (day["requests"], day["search_units"], day["cost_usd"]) == (1, 1, 0.001)
    assert (day["searches"], day["queries"], day["clicks"]) == (1000, 1, 1000)
    rows = read_summary(tmp_path, "searches")
    assert len({row["search_id"] for row in rows}) == 1000
    assert {len(set(row["clicked_ranks_before"])) for row in rows} == {1}


def test_the_same_generation_again_changes_nothing(enriched: Path, capsys: Capture) -> None:
    """The command says that nothing changed, and leaves files and their times as they were."""
    before = read_files(enriched / "out.summaries")
    found = call_json(capsys, "enrich", enriched / "job.yaml", "--partition", DAY)
    assert (found["changed"], found["generation"], found["day"]["searches"]) == (False, 1, 30)
    assert read_files(enriched / "out.summaries") == before


def test_a_new_generation_supersedes_once_its_summaries_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each removal finds both new files in place; other partitions' summaries stay."""
    job = load_job(set_up(tmp_path))
    write_searches(tmp_path, "2026-11-23", make_searches(3))
    run_partition(job, "2026-11-23")
    enrich_partition(job, "2026-11-23")
    enrich_partition(job, DAY)
    other = read_files(tmp_path / "out.summaries" / "searches" / "ds=2026-11-23")
    write_searches(tmp_path, DAY, make_searches(13))
    run_partition(job, DAY)
    seen: list[set[str]] = []
    delete = LocalStore.delete

    def watch(store: LocalStore, name: str) -> None:
        if store.location.endswith(".summaries"):
            seen.append({path.name for path in (tmp_path / "out.summaries").rglob("part-*")})
        delete(store, name)

    monkeypatch.setattr(LocalStore, "delete", watch)
    found = enrich_partition(job, DAY)
    new = {Path(path).name for path in (found.searches_path, found.day_path)}
    assert len(seen) == 2
    assert all(new <= names for names in seen)
    assert (found.generation, len(read_summary(tmp_path, "searches"))) == (2, 13)
    assert read_summary(tmp_path, "days")[0]["generation"] == 2
    assert read_files(tmp_path / "out.summaries" / "searches" / "ds=2026-11-23") == other


def test_damaged_and_foreign_summaries_are_replaced(tmp_path: Path) -> None:
    """A summary that somebody cut short is written again; what is not a current one goes."""
    job = load_job(set_up(tmp_path))
    found = enrich_partition(job, DAY)
    kept = read_files(tmp_path / "out.summaries")
    path = Path(found.searches_path)
    path.chmod(0o644)
    path.write_bytes(b"PAR1")
    path.with_name("part-00000-00000000.parquet").write_bytes(b"old")
    assert enrich_partition(job, DAY).changed
    assert {path: one[0] for path, one in read_files(tmp_path / "out.summaries").items()} == {
        path: one[0] for path, one in kept.items()
    }


@pytest.mark.parametrize("kind", ["memory", pytest.param("s3", marks=pytest.mark.slow)])
def test_summaries_in_a_bucket(tmp_path: Path, request: pytest.FixtureRequest, kind: str) -> None:
    """Beside an output in a bucket stand the bytes that a folder's job writes, once."""
    base = f"memory://{uuid4().hex}" if kind == "memory" else request.getfixturevalue("bucket")
    write_searches(tmp_path, DAY, make_searches())
    job = load_job(write_log_job(tmp_path, output={"path": f"{base}/out"}))
    run_partition(job, DAY)
    assert enrich_partition(job, DAY).changed
    again = enrich_partition(job, DAY)
    store = open_store(f"{base}/out.summaries")
    names = [entry.name for entry in store.entries()]
    assert not again.changed
    assert [f"{store.location}/{name}" for name in names] == [again.day_path, again.searches_path]
    rows = pq.ParquetFile(store.fetch(names[1])).read().to_pylist()
    assert [row["search_id"] for row in rows] == [f"s{number}" for number in range(12)]


def test_the_command_prints_a_short_block(enriched: Path, capsys: Capture) -> None:
    """Counts, both mean reciprocal ranks, shares, movement, price and where the tables are."""
    outcome = call(capsys, "enrich", enriched / "job.yaml", "--partition", DAY)
    (row,) = read_summary(enriched, "days")
    lines = outcome.out.splitlines()
    assert (outcome.code, outcome.err, len(lines)) == (0, "", 8)
    assert lines[0] == f"Generation 1, partition {DAY}: summaries unchanged"
    assert lines[1] == "Searches: 30, 30 with results, 30 with clicks, 4 distinct queries"
    assert f"{row['click_mrr_before']:.3f} as shown, {row['click_mrr_after']:.3f}" in lines[2]
    assert f"{row['improved_share']:.1%} improved" in lines[3]
    (path,) = (enriched / "out.summaries" / "searches").rglob("*.parquet")
    assert lines[6] == f"Searches in {path}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"enrichment": {"time": "when"}}, "no column 'when'"),
        ({"enrichment": {"time": "search_id"}}, "must be a date or a timestamp"),
        ({"input": {"columns": {"clicked": None}}}, "input.columns.clicked"),
        ({"input": {"layout": "nested"}}, "only a search_log has searches"),
    ],
    ids=["no such time", "time is text", "no clicks", "nested"],
)
def test_what_cannot_be_summarised_is_one_line(
    enriched: Path, capsys: Capture, change: dict[str, Any], words: str
) -> None:
    """The line names the key of the job file; nothing is written."""
    before = read_files(enriched / "out.summaries")
    data = yaml.safe_load((enriched / "job.yaml").read_text(encoding="utf-8"))
    path = enriched / "changed.yaml"
    path.write_text(yaml.safe_dump(merge(data, change)), encoding="utf-8")
    call(capsys, "enrich", path, "--partition", DAY).assert_says(2, words)
    assert read_files(enriched / "out.summaries") == before


def test_only_what_is_published_and_whole_is_summarised(tmp_path: Path, capsys: Capture) -> None:
    """Nothing published, a part damaged or gone: each is one line, and publish mends the part."""
    job = set_up(tmp_path)
    unknown = call(capsys, "enrich", job, "--partition", "2026-11-23")
    unknown.assert_says(2, "nothing is published for partition 2026-11-23")
    (part,) = list_parts(tmp_path)
    whole = part.read_bytes()
    flipped = whole[:4] + bytes(255 - byte for byte in whole[4:200]) + whole[200:]
    for content in (None, whole[:-1], flipped):
        part.unlink(missing_ok=True)  # it shares its bytes with the copy under state
        if content is not None:
            part.write_bytes(content)
        damaged = call(capsys, "enrich", job, "--partition", DAY)
        damaged.assert_says(2, "gone or damaged", "rerank-jobs publish")
    call(capsys, "publish", job, "--partition", DAY)
    assert call(capsys, "enrich", job, "--partition", DAY).code == 0


def test_the_time_column_and_the_summaries_name_no_plan(tmp_path: Path) -> None:
    """Naming the time of a search later is the same plan: nothing is sent."""
    write_searches(tmp_path, DAY, make_searches())
    first = run_partition(load_job(write_log_job(tmp_path, enrichment={})), DAY)
    second = run_partition(load_job(write_log_job(tmp_path)), DAY)
    assert (second.plan_id, second.totals.requests) == (first.plan_id, 0)


def test_a_search_without_an_id_is_named_by_file_and_row(tmp_path: Path) -> None:
    """Equal ids and no ids are searches of their own, told apart by part and row."""
    searches = [{**row, "search_id": "same"} for row in make_searches(4)]
    columns = {name: column for name, column in COLUMNS.items() if name != "search_id"}
    parts = {"path": "log/{partition}", "layout": "search_log", "columns": columns}
    for number, changes in enumerate(({}, {"input": parts})):
        set_up(tmp_path / str(number), searches, **changes)
        enrich_partition(load_job(tmp_path / str(number) / "job.yaml"), DAY)
        rows = read_summary(tmp_path / str(number), "searches")
        assert {row["search_id"] for row in rows} == {None if changes else "same"}
        assert len({(row["part"], row["row"]) for row in rows}) == 4


def test_erasing_a_document_takes_its_summaries_along(tmp_path: Path) -> None:
    """What is erased is in no summary: they go with it, and are made anew without it."""
    job = load_job(set_up(tmp_path))
    assert enrich_partition(job, DAY).day["results"] == 12 * 5
    wanted = Wanted("document_id", frozenset({"d0"}))
    erase(job, wanted)
    assert len(list((tmp_path / "out.summaries").rglob("*.parquet"))) == 2
    erase(job, wanted, write=True)
    assert list((tmp_path / "out.summaries").rglob("*.parquet")) == []
    again = enrich_partition(job, DAY)
    assert (again.generation, again.day["results"]) == (2, 12 * 4)
