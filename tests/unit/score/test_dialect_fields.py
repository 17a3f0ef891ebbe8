"""What of a job's endpoint goes into each request body, and what is refused before any work."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from rerank_jobs.config import Endpoint
from rerank_jobs.errors import JobError
from rerank_jobs.job import preview_partition
from rerank_jobs.score import DIALECTS, ScoreSettings, body_fields
from tests.builders import make_job, make_rows, write_rows


def make_endpoint(**fields: Any) -> Endpoint:
    return Endpoint.model_validate({"url": "https://api.test/v1", **fields})


def test_routing_goes_to_openrouter_as_the_job_file_has_it() -> None:
    """Only what is named is sent, under OpenRouter's own names."""
    endpoint = make_endpoint(
        provider={"only": ["cohere"], "allow_fallbacks": False, "max_price": {"request": "0.002"}},
        user="nightly",
        session_id="s-1",
        trace={"trace_id": "t", "team": 7},
    )
    assert body_fields(endpoint) == {
        "provider": {
            "only": ["cohere"],
            "allow_fallbacks": False,
            "max_price": {"request": "0.002"},
        },
        "user": "nightly",
        "session_id": "s-1",
        "trace": {"trace_id": "t", "team": 7},
    }


@pytest.mark.parametrize("name", DIALECTS)
def test_nothing_named_sends_nothing(name: str) -> None:
    """Without options a body holds what its dialect puts there and no more."""
    assert body_fields(make_endpoint(dialect=name)) == {}


@pytest.mark.parametrize("name", DIALECTS)
def test_every_option_of_a_dialect_is_sent(name: str) -> None:
    """Options reach the body under their own names."""
    options = dict.fromkeys(DIALECTS[name].options, 1)
    assert body_fields(make_endpoint(dialect=name, options=options)) == options


@pytest.mark.parametrize("name", DIALECTS)
def test_an_option_that_the_dialect_does_not_take_is_named(name: str) -> None:
    """An unknown option is a mistake in the job file, not something to send."""
    endpoint = make_endpoint(dialect=name, options={"top_k": 3})
    with pytest.raises(JobError, match=rf"endpoint\.options\.top_k: the dialect {name} takes"):
        body_fields(endpoint)


@pytest.mark.parametrize("name", sorted(set(DIALECTS) - {"openrouter"}))
@pytest.mark.parametrize(
    "field", [{"provider": {}}, {"user": "u"}, {"session_id": "s"}, {"trace": {}}]
)
def test_only_openrouter_takes_routing(name: str, field: dict[str, Any]) -> None:
    """Other servers have no such fields."""
    with pytest.raises(JobError, match=rf"endpoint\.{next(iter(field))}: the dialect {name}"):
        body_fields(make_endpoint(dialect=name, **field))


@pytest.mark.parametrize(
    "value", [b"x", {1: 2}, {"a": {1, 2}}, 2**70, float("nan"), dt.date(2026, 11, 25)]
)
def test_a_value_that_json_cannot_hold_is_named(value: object) -> None:
    """YAML can write what JSON cannot; the first send is too late to notice."""
    with pytest.raises(JobError, match=r"endpoint\.trace: holds a value that JSON"):
        body_fields(make_endpoint(trace={"x": value}))
    with pytest.raises(JobError, match=r"endpoint\.options\.truncate: holds a value that JSON"):
        body_fields(make_endpoint(dialect="nim", options={"truncate": value}))


def test_the_fields_reach_the_run() -> None:
    """The settings of a run hold the fields of its endpoint."""
    endpoint = make_endpoint(dialect="voyage", options={"truncation": True})
    assert ScoreSettings.from_endpoint(endpoint, None).fields == {"truncation": True}


def test_a_bad_option_fails_before_anything_is_planned(tmp_path: Path) -> None:
    """The mistake is told by ``plan`` already, and nothing is written."""
    write_rows(tmp_path / "candidates.parquet", make_rows(2, 2))
    endpoint = {"url": "http://127.0.0.1:9/v1", "dialect": "jina", "options": {"top_k": 1}}
    with pytest.raises(JobError, match="top_k"):
        preview_partition(make_job(tmp_path, endpoint=endpoint))
    assert [path.name for path in tmp_path.iterdir()] == ["candidates.parquet"]
