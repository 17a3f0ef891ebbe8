"""``ledger stats``, ``compact``, ``export`` and ``import`` as a user meets them."""

from __future__ import annotations

import csv
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_jobs.ledger.spending import count_spending
from rerank_jobs.storage import LocalStore
from tests.unit.cli.kit import (
    DOCUMENT_CANARY,
    QUERY_CANARY,
    Row,
    call,
    call_json,
    make_rows,
    read_table,
    set_up,
    write_job,
    write_table,
)

MODEL = "embedded/lexvec-1"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def make_score(**changes: Any) -> Row:
    """Return a row that can be imported."""
    row = {
        "query": f"{QUERY_CANARY} how to fold paper 0",
        "document": f"{DOCUMENT_CANARY} paper crane number 0 of shelf 0, fold 0",
        "score": 0.25,
        "model": MODEL,
        "date": YESTERDAY.isoformat(),
    }
    return {**row, **changes}


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def list_state(folder: Path) -> list[str]:
    """Return the files of a job's state root."""
    root = folder / "out.state"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def find_segment(folder: Path) -> Path:
    """Return a segment that a run left."""
    return next((folder / "out.state").glob("_all/run/*/*/seg/*.arrow"))


def test_stats_say_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs, files, requests and months of the job's scorer, as JSON and as lines."""
    job = set_up(tmp_path)
    assert call_json(capsys, "ledger", "stats", job)["scorers"] == {}
    call_json(capsys, "run", job)
    found = call_json(capsys, "ledger", "stats", job)
    one = found["scorers"][found["scorer_id"]]
    assert (one["pairs"], one["files"], one["segments"], one["uncompacted"]) == (12, 1, 1, 0)
    assert (one["requests"], one["imported"], found["segments_ignored"]) == (3, 0, [])
    assert one["paid_usd"] == {time.strftime("%Y-%m", time.gmtime()): 0.0}
    assert one["oldest"] <= one["newest"]
    out = call(capsys, "ledger", "stats", job).out
    assert "(this job's)" in out
    assert "12 pairs in 1 files" in out


def test_a_torn_segment_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stats name it; a run that goes on counts it, pays its pairs again and publishes."""
    job = set_up(tmp_path)
    call_json(capsys, "run", job, "--limit-queries", 2)
    segment = find_segment(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-9])
    name = str(segment.relative_to(tmp_path / "out.state"))
    assert call_json(capsys, "ledger", "stats", job)["segments_ignored"] == [name]
    assert f"Ignored, torn or foreign: {name}" in call(capsys, "ledger", "stats", job).out.replace(
        "\n", ""
    )
    next(segment.parent.parent.glob("done.json")).unlink()
    for work in segment.parent.parent.parent.parent.parent.glob("plan/*.json"):
        work.unlink()
    found = call_json(capsys, "run", job, "--limit-queries", 2)
    assert (found["segments_ignored"], found["statuses"]["scored"]) == (1, 0)
    assert found["statuses"]["reused"] == 8  # what was in the library before it was torn


def test_compacting_leaves_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All runs of all partitions are in one file; what is in it is found, and nothing is added."""
    job = set_up(tmp_path)
    call_json(capsys, "run", job)
    write_table(tmp_path / "candidates.parquet", make_rows(queries=4))
    call_json(capsys, "run", job)
    found = call_json(capsys, "ledger", "compact", job)
    assert (sum(found["added"].values()), list(found["files"].values())) == (0, [1])
    before = list_state(tmp_path)
    call_json(capsys, "ledger", "compact", job)
    assert list_state(tmp_path) == before
    write_table(tmp_path / "candidates.parquet", make_rows(queries=4)[:15])
    assert call_json(capsys, "run", job)["requests"] == 0


def test_a_removed_library_comes_back_from_segments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Segments stay the truth: without a library, compacting makes it again; nothing is paid."""
    job = set_up(tmp_path)
    call_json(capsys, "run", job)
    for path in sorted((tmp_path / "out.state" / "library").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert sum(call_json(capsys, "ledger", "compact", job)["added"].values()) == 12
    write_table(tmp_path / "candidates.parquet", make_rows()[:11])
    assert call_json(capsys, "run", job)["requests"] == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_keys_can_be_exported(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every pair once, keys in hex, with model and date; a file that is there stays as it is."""
    job = set_up(tmp_path)
    call_json(capsys, "run", job)
    target = tmp_path / f"scores{suffix}"
    assert call_json(capsys, "ledger", "export", job, "--to", target)["scores"] == 12
    if suffix == ".csv":
        with target.open(newline="") as file:
            rows: list[Row] = list(csv.DictReader(file))
        assert rows[0]["date"].endswith("Z")
    else:
        rows = pq.read_table(target).to_pylist()
    assert len({(row["query_key"], row["passage_key"]) for row in rows}) == 12
    assert {(len(row["query_key"]), row["model"]) for row in rows} == {(32, MODEL)}
    call(capsys, "ledger", "export", job, "--to", target).assert_says(2, "is there already")
    call(capsys, "ledger", "export", job, "--to", "scores.txt").assert_says(2, ".parquet or .csv")


LONG = [
    {**row, "text": f"{row['text']} " + " ".join(f"{n} fold" for n in range(900))}
    if row["doc_id"] == "d1"
    else row
    for row in make_rows()
]
"""A document of each query is longer than the context."""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_scores_travel_to_another_state_root(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exported with their texts and imported elsewhere, they are all found, windows too."""
    changes = {"context": {"tokens": 1024}}
    one, two = tmp_path / "one", tmp_path / "two"
    target = tmp_path / f"scores{suffix}"
    first, second = set_up(one, changes, LONG), set_up(two, changes, LONG)
    call_json(capsys, "run", first)
    command = ("ledger", "export", first, "--partition", "_all", "--to", target)
    count = call_json(capsys, *command)["scores"]
    assert count > 12
    assert call_json(capsys, "ledger", "import", second, target) == {
        "scores": count,
        "added": count,
    }
    assert call_json(capsys, "run", second)["requests"] == 0
    ranked = [
        [{**row, "rerank_status": ""} for row in read_table(folder / "out")]
        for folder in (one, two)
    ]
    assert ranked[0] == ranked[1]
    before = list_state(two)
    assert call_json(capsys, "ledger", "import", second, target)["added"] == 0
    assert list_state(two) == before


def test_imported_scores_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are in no bill and in no budget, and stand in the statistics as imported."""
    job = set_up(tmp_path)
    file = write_csv(tmp_path / "scores.csv", [make_score(), make_score(score="0.5")])
    assert call_json(capsys, "ledger", "import", job, file) == {"scores": 2, "added": 1}
    found = call_json(capsys, "ledger", "stats", job)
    one = found["scorers"][found["scorer_id"]]
    assert (one["pairs"], one["imported"], one["requests"], one["paid_usd"]) == (1, 2, 0, {})
    state = LocalStore(str(tmp_path / "out.state"))
    assert count_spending(state, [0.0], time.time(), ours="x").paid_usd == (0.0,)


def test_columns_may_have_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--columns`` maps them; dates may be dates; the score is the one that a run then uses."""
    job = set_up(tmp_path, {"reuse": {"mode": "strict"}})
    names = {"query": "q", "document": "body", "score": "relevance", "date": "day"}
    row = {names.get(name, name): value for name, value in make_score(score=0.125).items()}
    table = pa.Table.from_pylist([row])
    table = table.set_column(4, "day", pa.array([YESTERDAY.date()]))
    write_table(tmp_path / "scores.parquet", table)
    columns = ",".join(f"{name}={column}" for name, column in names.items())
    command = ("ledger", "import", job, tmp_path / "scores.parquet")
    call(capsys, *command).assert_says(2, "'query' (query) is missing", "--columns query=")
    call(capsys, *command, "--columns", "text=q").assert_says(2, "NAME=COLUMN", "query, document")
    call_json(capsys, *command, "--columns", columns)
    assert call_json(capsys, "run", job)["passages_reused"] == 1
    reused = [row for row in read_table(tmp_path / "out") if row["rerank_status"] == "reused"]
    assert [row["rerank_score"] for row in reused] == [0.125]


WRONG = [
    ({"score": "nan"}, "column 'score' is no number"),
    ({"score": "1e999"}, "column 'score' is no finite number"),
    ({"score": ""}, "column 'score' is null"),
    ({"score": "high"}, "column 'score' is no number"),
    ({"date": "9999-01-01"}, "column 'date' lies in the future"),
    ({"date": "01.11.2026"}, "column 'date' is no date or time in ISO 8601"),
    ({"date": ""}, "column 'date' is no date or time in ISO 8601"),
    ({"query": " "}, "column 'query' is null or blank"),
    ({"document": ""}, "column 'document' is null or blank"),
    ({"model": "other"}, "column 'model' is not the job's model 'embedded/lexvec-1': --any-model"),
    ({"document": "fold " * 5000}, "column 'document' is longer than the context: the job sends"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_one_wrong_row_and_nothing_is_imported(
    tmp_path: Path, change: Row, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names file, row and column, never the value; the state root is not even made."""
    job = set_up(tmp_path)
    rows = [make_score(), make_score(document="paper"), make_score(**change), make_score()]
    file = write_csv(tmp_path / "scores.csv", rows)
    call(capsys, "ledger", "import", job, file).assert_says(2, f"scores.csv: row 2, {reason}")
    assert not (tmp_path / "out.state").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("scores.csv", b"", "cannot be read"),
        ("scores.csv", b"query,document,score,model,date\n", "holds no rows"),
        ("scores.csv", b"query,document,score,model,date\na,b\n", "cannot be read"),
        (
            "scores.csv",
            b"query,document,score,model,date\n\xff,b,1,m,2026-01-01\n",
            "cannot be read",
        ),
        ("scores.parquet", b"PAR1", "cannot be read"),
        ("scores.json", b"{}", ".parquet or .csv"),
        (None, b"", "no such file"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(
    tmp_path: Path,
    name: str | None,
    content: bytes,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Broken, empty, foreign or missing files end in one line that says what to do."""
    job = set_up(tmp_path)
    path = tmp_path / (name or "missing.csv")
    if name:
        path.write_bytes(content)
    call(capsys, "ledger", "import", job, path).assert_says(2, words)


def test_other_models_come_in_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``--any-model`` their name is kept, and stands in the output."""
    job = set_up(tmp_path, {"reuse": {"mode": "strict"}})
    file = write_csv(tmp_path / "scores.csv", [make_score(model="older-model", provider="Acme")])
    call_json(capsys, "ledger", "import", job, file, "--any-model")
    call_json(capsys, "run", job)
    (row,) = [row for row in read_table(tmp_path / "out") if row["rerank_status"] == "reused"]
    assert (row["rerank_model"], row["rerank_provider"]) == ("older-model", "Acme")


def test_pieces_are_carried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A score of a passage that was sent in three pieces says so wherever it is used."""
    job = set_up(tmp_path, {"reuse": {"mode": "strict"}})
    file = write_csv(tmp_path / "scores.csv", [make_score(parts="3")])
    call_json(capsys, "ledger", "import", job, file)
    call_json(capsys, "run", job)
    windows = {row["rerank_status"]: row["rerank_windows"] for row in read_table(tmp_path / "out")}
    assert windows == {"reused": 3, "scored": 1}


def test_a_listwise_model_imports_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No score of another list can be used, so none is taken in."""
    set_up(tmp_path)
    job = write_job(tmp_path, {"endpoint": {"listwise": True}, "reuse": {"mode": "off"}})
    file = write_csv(tmp_path / "scores.csv", [make_score()])
    call(capsys, "ledger", "import", job, file).assert_says(2, "listwise")
