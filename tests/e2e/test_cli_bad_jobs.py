"""Bad job files: one line on standard error that says what, where and what to do; exit code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.kit import (
    KEY_CANARY,
    call,
    make_rows,
    set_up,
    write_job,
    write_table,
)

Capture = pytest.CaptureFixture[str]


def test_a_missing_job_file_is_named(tmp_path: Path, capsys: Capture) -> None:
    """A job file that is not there is named, with the command that writes one."""
    call(capsys, "run", tmp_path / "no.yaml").assert_says(2, "no.yaml", "rerank-jobs init")


def test_a_folder_is_no_job_file(tmp_path: Path, capsys: Capture) -> None:
    """A folder in place of the job file is refused in one line."""
    call(capsys, "run", tmp_path).assert_says(2, str(tmp_path), "cannot be read")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [shop\n", ("line ", "column ", "not valid YAML")),
        ("a: b: c\n", ("line 1", "not valid YAML")),
        ("name: \t shop\n\tx: 1\n", ("line 1", "not valid YAML")),
        ("- name: shop\n", ("a job file is a YAML mapping",)),
        ("shop\n", ("a job file is a YAML mapping",)),
        ("", ("a job file is a YAML mapping",)),
        ("{}\n", ("name: is missing", "input: is missing", "output: is missing")),
        ("name: shop\n7: x\n", ("7",)),
        ("name: !!python/object/apply:os.system [ls]\n", ("not valid YAML",)),
        ("name: 2026-13-45\n", ("not valid YAML", "month")),
        ("name: a\x00b\n", ("not valid YAML",)),
        ("? [name]\n: x\n", ("not valid YAML",)),
        ("name: shop\nname: store\n", ("line 2", "name", "twice")),
    ],
)
def test_what_is_no_mapping_is_refused(
    tmp_path: Path, capsys: Capture, text: str, words: tuple[str, ...]
) -> None:
    """Text that is not YAML, or not a mapping of keys, is refused with its place."""
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    call(capsys, "plan", path).assert_says(2, str(path), *words)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path, capsys: Capture) -> None:
    """A job file in another encoding is refused without a traceback."""
    path = tmp_path / "job.yaml"
    path.write_bytes("name: caf\xe9\n".encode("latin-1"))
    call(capsys, "plan", path).assert_says(2, str(path), "cannot be read")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpont": {}}, ("endpont: unknown key, did you mean endpoint?",)),
        ({"input": {"layot": "long"}}, ("input.layot: unknown key, did you mean layout?",)),
        (
            {"input": {"columns": {"documnt": "x"}}},
            ("input.columns.documnt: unknown key, did you mean document?",),
        ),
        ({"endpoint": {"modle": "m"}}, ("endpoint.modle", "did you mean model?")),
        ({"candidates": {"topk": 5}}, ("candidates.topk", "did you mean top_k?")),
        ({"partition": {"templte": "{key}"}}, ("did you mean template?",)),
        ({"output": {"pth": "x"}}, ("output.pth", "did you mean path?")),
        ({"state": {"pth": "x"}}, ("state.pth", "did you mean path?")),
        ({"context": {"token": 1}}, ("context.token", "did you mean tokens?")),
        ({"budget": {"max_eur": 1}}, ("budget.max_eur", "did you mean max_usd?")),
        ({"failures": {"on_fail": "fail"}}, ("did you mean on_failed?",)),
        ({"reuse": {"mod": "off"}}, ("did you mean mode?",)),
        ({"ledger": {"max_unsaved_reply": 1}}, ("did you mean max_unsaved_replies?",)),
        ({"shards": {"rows_per_shards": 1}}, ("did you mean rows_per_shard?",)),
        ({"base": "/"}, ("base: unknown key",)),
    ],
)
def test_a_misspelt_key_meets_its_nearest_name(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    """An unknown key at any level is named with its path and the nearest known name."""
    job = set_up(tmp_path, changes)
    call(capsys, "run", job).assert_says(2, str(job), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "two words"}, ("name", "'two words'")),
        ({"name": 7}, ("name", "string", "7")),
        ({"input": "candidates.parquet"}, ("input",)),
        ({"input": {"path": ["a", "b"]}}, ("input.path", "string")),
        ({"input": {"layout": "wide"}}, ("input.layout", "'long', 'nested' or 'search_log'")),
        ({"input": {"columns": {"document": []}}}, ("columns.document", "at least one")),
        ({"input": {"columns": {"document": ["text", "text"]}}}, ("document", "twice")),
        ({"input": {"columns": {"query_id": None}}}, ("columns.query_id", "is needed")),
        ({"input": {"columns": {"candidates": "hits"}}}, ("columns.candidates", "nested")),
        ({"input": {"layout": "nested"}}, ("columns.candidates must name the list column",)),
        ({"input": {"layout": "search_log"}}, ("columns.candidates must name the list column",)),
        ({"input": {"on_bad_rows": "skip"}}, ("input.on_bad_rows", "'reject' or 'fail'")),
        ({"candidates": {"top_k": 0}}, ("candidates.top_k", "1", "got 0")),
        ({"candidates": {"top_k": "ten"}}, ("candidates.top_k", "integer", "'ten'")),
        ({"candidates": {"top_k": True}}, ("candidates.top_k", "true or false")),
        ({"endpoint": {"revision": 3}}, ("endpoint.revision", "put it in quotes")),
        ({"partition": {"template": "ds"}}, ("partition", "{key} exactly once")),
        ({"partition": {"template": "{key}/{key}"}}, ("partition", "{key} exactly once")),
        ({"partition": {"template": "../{key}"}}, ("partition", "template")),
        ({"partition": {"template": "{key}{hour}"}}, ("partition", "template")),
        ({"partition": {"template": "/root/{key}"}}, ("partition", "template")),
        ({"endpoint": {"dialect": "websocket"}}, ("endpoint.dialect", "'openrouter'")),
        ({"endpoint": {"url": "ftp://host/x"}}, ("endpoint", "http(s)://")),
        ({"endpoint": {"url": "openrouter.ai"}}, ("endpoint", "http(s)://")),
        ({"endpoint": {"max_concurrency": 0}}, ("endpoint.max_concurrency",)),
        ({"endpoint": {"timeout_seconds": float("nan")}}, ("endpoint.timeout_seconds",)),
        ({"endpoint": {"requests_per_minute": -1}}, ("endpoint.requests_per_minute",)),
        ({"endpoint": {"usd_per_search": float("inf")}}, ("endpoint.usd_per_search", "finite")),
        ({"context": {"tokens": 10}}, ("context.tokens",)),
        ({"context": {"tokens": 256, "overlap_tokens": 200}}, ("overlap_tokens", "quarter")),
        ({"budget": {"max_usd": -1}}, ("budget.max_usd",)),
        ({"budget": {"max_usd": float("nan")}}, ("budget.max_usd",)),
        ({"budget": {"max_usd": "five"}}, ("budget.max_usd", "'five'")),
        ({"failures": {"max_failed_fraction": 2}}, ("failures.max_failed_fraction",)),
        ({"failures": {"max_failed_fraction": float("nan")}}, ("max_failed_fraction",)),
        ({"reuse": {"mode": "always"}}, ("reuse.mode", "'cheapest', 'strict' or 'off'")),
        ({"reuse": {"max_age_days": float("inf")}}, ("reuse.max_age_days", "finite")),
        ({"ledger": {"max_unsaved_usd": float("nan")}}, ("ledger.max_unsaved_usd",)),
        ({"memory": "lots"}, ("memory", "1GB", "'lots'")),
        ({"memory": "10MB"}, ("memory", "100MB", "'10MB'")),
        ({"memory": -1}, ("memory", "-1")),
        ({"memory": [1]}, ("memory",)),
    ],
)
def test_a_wrong_value_is_named_with_what_would_do(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    """A value of a wrong type or range is named by its key, with what is allowed."""
    job = set_up(tmp_path, changes)
    call(capsys, "run", job).assert_says(2, str(job), *words)


def test_all_mistakes_come_at_once(tmp_path: Path, capsys: Capture) -> None:
    """Two mistakes are both named in the one line, so that one round mends them."""
    job = set_up(tmp_path, {"memory": "lots", "endpont": {}})
    call(capsys, "run", job).assert_says(2, "memory", "endpont")


@pytest.mark.parametrize(
    "endpoint",
    [
        {"url": f"https://user:{KEY_CANARY}@host/api/v1"},
        {"url": f"https://{KEY_CANARY}@host/api/v1"},
        {"url": f"https://host/api/v1?key={KEY_CANARY}"},
        {"url": f"https://host/api/v1#{KEY_CANARY}"},
        {"api_key": KEY_CANARY},
        {"api_key_env": KEY_CANARY},
    ],
)
def test_a_key_in_the_job_file_is_refused_and_not_repeated(
    tmp_path: Path, capsys: Capture, endpoint: dict[str, Any]
) -> None:
    """A key put into the job file is refused, and no message shows it."""
    job = set_up(tmp_path, {"endpoint": endpoint})
    call(capsys, "run", job).assert_says(2, "endpoint")


@pytest.mark.parametrize(
    "key", ["../up", "a/b", "a b", "", "..", ".", "é", "x" * 251, "library", "salt", ".hidden"]
)
def test_a_partition_key_must_name_a_folder_safely(
    tmp_path: Path, capsys: Capture, key: str
) -> None:
    """A partition key that could leave its folder, or hide it, is refused."""
    job = set_up(tmp_path)
    for command in ("run", "plan", "verify"):
        call(capsys, command, job, "--partition", key).assert_says(2, "partition key")


def test_a_partitioned_input_asks_for_its_key(tmp_path: Path, capsys: Capture) -> None:
    """Input with {partition} cannot run without --partition, and the line says so."""
    job = set_up(tmp_path, {"input": {"path": "in/{partition}"}})
    call(capsys, "run", job).assert_says(2, "shop", "--partition KEY")


def test_an_input_in_an_object_store_is_refused_in_plain_words(
    tmp_path: Path, capsys: Capture
) -> None:
    """An input at s3://, which this version cannot read, is named as such."""
    job = set_up(tmp_path, {"input": {"path": "s3://bucket/in"}})
    call(capsys, "run", job).assert_says(2, "s3://bucket/", "not supported yet", "local path")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": {"path": "s3a://bucket/out"}}, ("s3a://", "use s3://")),
        ({"state": {"path": "s3://"}}, ("state.path", "names no bucket")),
        ({"output": {"path": "s3://bucket"}}, ("output.path", "needs a folder")),
    ],
)
def test_a_location_that_cannot_be_is_refused_in_plain_words(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    """What is wrong with an output's or a state's location is said with what to write."""
    call(capsys, "run", set_up(tmp_path, changes)).assert_says(2, *words)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": {"path": "out"}},
        {"state": {"path": "out/state"}},
        {"output": {"path": "state/out"}, "state": {"path": "state"}},
        {"state": {"path": "out.rejected"}},
    ],
)
def test_output_and_state_keep_apart(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any]
) -> None:
    """State inside the output, or the other way round, is refused: readers glob the output."""
    job = set_up(tmp_path, changes)
    call(capsys, "run", job).assert_says(2, "state.path", "output")


@pytest.mark.parametrize(
    ("table", "output"),
    [(".", "out"), ("in", "in"), ("in", "in/out"), ("in", "in/../in"), ("in/one.parquet", "in")],
)
def test_an_output_inside_the_input_is_refused(
    tmp_path: Path, capsys: Capture, table: str, output: str
) -> None:
    """Output that the next run would read as input is refused before anything is written."""
    write_table(tmp_path / "in" / "one.parquet", make_rows())
    job = write_job(tmp_path, {"input": {"path": table}, "output": {"path": output}})
    call(capsys, "run", job).assert_says(2, "output.path", "input.path")
    assert [path.name for path in tmp_path.rglob("*.parquet")] == ["one.parquet"]


@pytest.mark.parametrize(
    "changes",
    [
        {"output": {"path": ""}},
        {"input": {"path": ""}},
        {"state": {"path": ""}},
        {"output": {"path": "out/{partition}"}},
    ],
)
def test_a_path_that_names_no_place_is_refused(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any]
) -> None:
    """An empty path, or {partition} where the folder comes by itself, is refused."""
    job = set_up(tmp_path, changes)
    call(capsys, "run", job).assert_says(2, f"{next(iter(changes))}.path")
