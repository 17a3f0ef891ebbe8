"""``verify``, ``evaluate``, ``doctor``, ``init`` and help: what they find and how they say it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from pydantic import BaseModel

from rerank_jobs.job_file import load_job
from tests.unit.cli.kit import (
    KEY_CANARY,
    LISTS,
    call,
    call_json,
    make_rows,
    nest,
    read_stats,
    serve,
    set_up,
    write_job,
    write_table,
)

Capture = pytest.CaptureFixture[str]

COMMANDS = (
    *("run", "plan", "publish", "paths", "verify", "evaluate", "enrich", "doctor"),
    *("serve", "init", "demo", "gc", "erase"),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the instant endpoint."""
    with serve("--scorer", "instant") as address:
        yield address


def flip_byte(part: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def truncate(part: Path) -> None:
    """Cut the file short."""
    part.write_bytes(part.read_bytes()[:-20])


def add_stranger(part: Path) -> None:
    """Put another table beside the part."""
    shutil.copy(part, part.with_name("stranger.parquet"))


@pytest.mark.parametrize("layout", ["long", "nested"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip_byte, "differ from the manifest's SHA-256"),
        (truncate, "differ from the manifest's SHA-256"),
        (Path.unlink, "missing"),
        (add_stranger, "not a part of generation 1"),
    ],
)
def test_verify_finds_harm(
    tmp_path: Path, capsys: Capture, layout: str, harm: Callable[[Path], None], words: str
) -> None:
    """A flipped byte, a cut or deleted part, a stranger in the folder: each is named, exit 4."""
    if layout == "nested":
        job = set_up(tmp_path, {"input": LISTS}, nest(make_rows()))
    else:
        job = set_up(tmp_path)
    call_json(capsys, "run", job)
    clean = call_json(capsys, "verify", job)
    assert (clean["problems"], clean["documents"], clean["files"]) == ([], 12, 1)
    (part,) = (tmp_path / "out").glob("*.parquet")
    harm(part)
    outcome = call(capsys, "verify", job)
    outcome.assert_says(4, "generation 1", "1 differences")
    assert words in outcome.out
    outcome = call(capsys, "verify", job, "--json")
    outcome.assert_says(4)
    (problem,) = outcome.json()["problems"]
    assert words in problem


def test_verify_finds_a_harmed_rejected_table(tmp_path: Path, capsys: Capture) -> None:
    """The rejected table is a part of the publication: its bytes are checked too."""
    rows = [*make_rows(), {**make_rows()[0], "query": " ", "query_id": "q9"}]
    job = set_up(tmp_path, rows=rows)
    call_json(capsys, "run", job)
    (part,) = (tmp_path / "out.rejected").glob("*.parquet")
    flip_byte(part)
    outcome = call(capsys, "verify", job)
    outcome.assert_says(4)
    assert str(part) in outcome.out


def test_verify_finds_a_harmed_manifest(tmp_path: Path, capsys: Capture) -> None:
    """A manifest whose own checksum does not fit is named, never believed."""
    job = set_up(tmp_path)
    manifest = Path(call_json(capsys, "run", job)["manifest"])
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 12', b'"rows": 13'))
    call(capsys, "verify", job).assert_says(2, manifest.name, "damaged")


def test_verify_needs_something_published(tmp_path: Path, capsys: Capture) -> None:
    """Before the first run there is nothing to verify or evaluate, and the line says so."""
    job = set_up(tmp_path)
    call(capsys, "verify", job).assert_says(2, "nothing is published", "rerank-jobs run")
    call(capsys, "evaluate", job, "--qrels", job).assert_says(2, "nothing is published")


@pytest.fixture
def judged(tmp_path: Path, capsys: Capture) -> Path:
    """Publish a table whose second candidates name their query; judge those relevant."""
    rows = make_rows(3, 4)
    for row in rows:
        row["lang"] = "de" if row["query_id"] == "q0" else "en"
        if row["doc_id"] == "d1":
            row["text"] = row["query"]
    job = set_up(tmp_path, rows=rows)
    call_json(capsys, "run", job)
    lines = ["query_id\tdocument_id\trelevance", *(f"q{q}\td1\t1" for q in range(3))]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return job


def test_evaluate_measures_before_and_after(judged: Path, capsys: Capture) -> None:
    """The relevant document at rank 2, moved to rank 1: nDCG@10 from 0.63 to 1, MRR from 0.5."""
    qrels = judged.parent / "qrels.tsv"
    document = call_json(capsys, "evaluate", judged, "--qrels", qrels)
    assert document["before"]["ndcg_at_10"] == pytest.approx(0.6309, abs=1e-4)
    assert document["after"]["ndcg_at_10"] == 1.0
    outcome = call(capsys, "evaluate", judged, "--qrels", qrels)
    assert outcome.code == 0
    assert "nDCG@10" in outcome.out


def test_evaluate_by_a_column(judged: Path, capsys: Capture) -> None:
    """``--by`` gives one evaluation for each value of a column, and refuses an unknown one."""
    qrels = judged.parent / "qrels.tsv"
    document = call_json(capsys, "evaluate", judged, "--qrels", qrels, "--by", "lang")
    assert set(document["by"]) == {"de", "en"}
    call(capsys, "evaluate", judged, "--qrels", qrels, "--by", "land").assert_says(2, "land")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("qrels file", "does not exist")),
        ("", ("qrels file",)),
        ("query_id\tdocument_id\n1\t2\n", ("qrels file",)),
        ("query_id\tdocument_id\trelevance\nq0\td1\tyes\n", ("qrels file", "relevance")),
        ("query_id\tdocument_id\trelevance\nother\td1\t1\n", ("qrels", "quer")),
        ("\x00\xff", ("qrels file",)),
    ],
)
def test_evaluate_refuses_wrong_judgements(
    judged: Path, capsys: Capture, text: str | None, words: tuple[str, ...]
) -> None:
    """A qrels file that is missing, empty, of other columns or of other queries exits 2."""
    path = judged.parent / "wrong.tsv"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    call(capsys, "evaluate", judged, "--qrels", path).assert_says(2, *words)


def test_evaluate_refuses_a_folder_of_judgements(judged: Path, capsys: Capture) -> None:
    """A folder in place of the qrels file is refused in one line."""
    call(capsys, "evaluate", judged, "--qrels", judged.parent).assert_says(2, "qrels file")


def test_doctor_finds_a_good_job_well(tmp_path: Path, capsys: Capture, url: str) -> None:
    """On a good job every check is ok, nothing is sent or left behind, exit 0."""
    before = read_stats(url)
    for endpoint in ("embedded", url):
        outcome = call(capsys, "doctor", set_up(tmp_path, {"endpoint": {"url": endpoint}}))
        assert (outcome.code, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert all(line.startswith("ok ") for line in lines)
        names = [line.split()[1].rstrip(":") for line in lines]
        assert names[:6] == ["input", "key", "output", "state", "disk", "endpoint"]
    assert names[6:] == ["clock"]
    assert read_stats(url) == before
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "candidates.parquet",
        "job.yaml",
    ]


@pytest.mark.parametrize(
    ("check", "endpoint", "words"),
    [
        ("input", {}, "no such file"),
        ("key", {"url": "https://127.0.0.1.invalid/api/v1"}, "OPENROUTER_API_KEY"),
        ("output", {}, "Not a directory"),
        ("endpoint", {"url": "http://127.0.0.1:9/api/v1"}, "cannot be reached"),
    ],
)
def test_doctor_names_what_is_not_well(
    tmp_path: Path, capsys: Capture, check: str, endpoint: dict[str, str], words: str
) -> None:
    """Each failing check is named with what to do, the others still run, exit 2."""
    job = set_up(tmp_path, {"endpoint": endpoint})
    if check == "input":
        (tmp_path / "candidates.parquet").unlink()
    if check == "output":
        (tmp_path / "out").write_text("a file", encoding="utf-8")
    outcome = call(capsys, "doctor", job)
    outcome.assert_says(2, "checks failed")
    (line,) = [line for line in outcome.out.splitlines() if line.startswith(f"FAIL  {check}:")]
    assert words in line
    assert len(outcome.out.splitlines()) >= 6
    document = call(capsys, "doctor", job, "--json").json()
    ill = [finding["name"] for finding in document["findings"] if not finding["well"]]
    assert check in ill


def test_doctor_shows_no_key(
    tmp_path: Path, capsys: Capture, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is set is said to be set, and not shown."""
    monkeypatch.setenv("SHOP_KEY", KEY_CANARY)
    job = set_up(tmp_path, {"endpoint": {"url": url, "api_key_env": "SHOP_KEY"}})
    assert "SHOP_KEY is set" in call(capsys, "doctor", job).out


def test_doctor_survives_a_key_that_no_header_can_carry(
    tmp_path: Path, capsys: Capture, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key with letters outside ASCII or a line break is a finding, for run a stop."""
    job = set_up(tmp_path, {"endpoint": {"url": url, "api_key_env": "SHOP_KEY"}})
    for key in ("sk-é", "sk-a\nb"):
        monkeypatch.setenv("SHOP_KEY", key)
        outcome = call(capsys, "doctor", job)
        outcome.assert_says(2, "checks failed")
        assert "FAIL  key: " in outcome.out
        call(capsys, "run", job).assert_says(3, "SHOP_KEY")


def test_init_writes_a_job_that_loads(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template is a valid job file; it is never written over a file; a folder must exist."""
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "init").code == 0
    job = load_job(Path("rerank.yaml"))
    assert (job.name, job.endpoint.url, job.candidates.top_k) == ("shop", "embedded", 100)
    kept = Path("rerank.yaml").read_bytes()
    call(capsys, "init").assert_says(2, "rerank.yaml", "exists already")
    assert Path("rerank.yaml").read_bytes() == kept
    call(capsys, "init", "no/where.yaml").assert_says(2, "no/where.yaml")
    call(capsys, "init", tmp_path).assert_says(2, str(tmp_path))


def test_init_names_every_key_of_the_job_file(tmp_path: Path, capsys: Capture) -> None:
    """Every key that a user may set stands in the template, at least as a comment."""
    call(capsys, "init", tmp_path / "a.yaml")
    text = (tmp_path / "a.yaml").read_text(encoding="utf-8")
    job = load_job(tmp_path / "a.yaml")
    fields = type(job).model_fields
    parts = [getattr(job, name) for name in fields]
    expert = {"ledger", "shards", "max_unsaved_replies", "max_unsaved_seconds", "max_unsaved_usd"}
    expert |= {"max_unsaved_bytes", "rows_per_shard", "replace"}
    for part in (job, *(part for part in parts if isinstance(part, BaseModel))):
        for name in set(type(part).model_fields) - {"base"} - expert:
            assert f"{name}:" in text, name


def test_help_of_every_command(capsys: Capture) -> None:
    """Every command explains itself; the exit codes stand in the main help."""
    main_help = call(capsys, "--help")
    assert main_help.code == 0
    for words in (*COMMANDS, "exit codes:", "130"):
        assert words in main_help.out
    for command in COMMANDS:
        outcome = call(capsys, command, "--help")
        assert (outcome.code, outcome.err) == (0, "")
        assert f"rerank-jobs {command}" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["rnu", "job.yaml"], "rnu"),
        (["run"], "job"),
        (["run", "job.yaml", "--limit-queries", "0"], "whole number from 1, got '0'"),
        (["run", "job.yaml", "--limit-queries", "x"], "whole number from 1, got 'x'"),
        (["evaluate", "job.yaml"], "--qrels"),
        (["serve", "--port", "99999"], "port from 0 to 65535"),
        (["serve", "--latency-ms", "-1"], "number from 0, got '-1'"),
        (["serve", "--usd-per-search", "nan"], "number from 0, got 'nan'"),
        (["serve", "--requests-per-minute", "0"], "whole number from 1"),
        (["serve", "--scorer", "magic"], "magic"),
    ],
)
def test_wrong_arguments_exit_2(capsys: Capture, arguments: list[str], words: str) -> None:
    """A missing or wrong command or argument exits 2 with what was expected, no traceback."""
    outcome = call(capsys, *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err


def test_serve_names_a_port_in_use(capsys: Capture, url: str) -> None:
    """A port that is taken, or a host that is not ours, is one line that names another way."""
    port = str(urlsplit(url).port)
    call(capsys, "serve", "--port", port).assert_says(2, port, "choose another --port")
    call(capsys, "serve", "--host", "192.0.2.1").assert_says(2, "192.0.2.1")


def test_no_file_but_tables_and_work_files_holds_text(tmp_path: Path, capsys: Capture) -> None:
    """After publishing, texts stand in published and rejected tables and their copies alone."""
    rows = [*make_rows(), {**make_rows()[0], "doc_id": None}]
    job = set_up(tmp_path, rows=rows)
    call_json(capsys, "run", job)
    call_json(capsys, "plan", write_job(tmp_path, {"reuse": {"mode": "off"}}))
    for folder, _, names in os.walk(tmp_path / "out.state"):
        for name in names:
            if not name.startswith(("part-", "rejected-")):
                assert b"canary" not in (Path(folder) / name).read_bytes(), name


def test_evaluate_needs_a_query_id(tmp_path: Path, capsys: Capture) -> None:
    """A search log without query_id cannot be measured, and the line says why."""
    rows = [{"query": row["query"], "hits": row["hits"]} for row in nest(make_rows())]
    columns = {"query": "query", "document_id": "doc_id", "document": "text", "candidates": "hits"}
    write_table(tmp_path / "log.parquet", pa.Table.from_pylist(rows))
    part = {"path": "log.parquet", "layout": "search_log", "columns": {**columns, "query_id": None}}
    job = write_job(tmp_path, {"input": part})
    job.write_text(job.read_text().replace("query_id: query_id", ""), encoding="utf-8")
    call_json(capsys, "run", job)
    call(capsys, "evaluate", job, "--qrels", job).assert_says(2, "query_id")
