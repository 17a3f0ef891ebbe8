"""A connection of type openrouter: what a job takes from it, and what nothing ever shows."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException

from rerank_jobs.airflow import steps
from rerank_jobs.airflow.failures import report_failures
from rerank_jobs.airflow.hook import OPENROUTER_URL, OpenRouterHook
from rerank_jobs.config import Endpoint, Job, read_api_key
from rerank_jobs.embedded import identify_scorer
from rerank_jobs.errors import JobError, KeyStop, RerankJobsError
from rerank_jobs.job_file import parse_job
from rerank_jobs.score import ScoreSettings
from tests.dags.conftest import Table, serve_guarded

pytestmark = pytest.mark.dags

KEY = "sk-or-v1-canaryquokka"

Connect = Callable[..., None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Keep a connection in the environment, where Airflow looks for it."""

    def keep(**fields: Any) -> None:
        text = json.dumps({"conn_type": "openrouter", "password": KEY, **fields})
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", text)

    return keep


def make_job(**endpoint: Any) -> Job:
    """Return a job whose file writes these keys of ``endpoint`` alone."""
    document = {"name": "j", "input": {"path": "in"}, "output": {"path": "out"}}
    columns = {"query_id": "q", "document_id": "d", "document": "t", "first_stage_rank": "r"}
    document["input"] = {"path": "in", "columns": columns}
    return parse_job({**document, "endpoint": endpoint}, base=Path("/jobs"))


def complete(**endpoint: Any) -> Endpoint:
    """Return such a job's endpoint, completed by the connection ``shop``."""
    return OpenRouterHook("shop").complete(make_job(**endpoint)).endpoint


def test_a_job_file_without_an_endpoint_takes_all_from_the_connection(connect: Connect) -> None:
    """URL, model, pace and attribution are the connection's where the file says nothing."""
    extra = {"model": "cohere/rerank-4-pro", "requests_per_minute": 300}
    extra |= {"app_url": "https://shop.example", "app_title": "Shop"}
    connect(host="https://proxy.example/api/v1/", extra=extra)

    endpoint = complete()

    assert endpoint.url == "https://proxy.example/api/v1"
    assert (endpoint.model, endpoint.pace) == ("cohere/rerank-4-pro", 300)
    assert (endpoint.app.url, endpoint.app.title) == ("https://shop.example", "Shop")
    key = read_api_key(endpoint)
    assert key is not None
    assert key.reveal() == KEY


def test_what_the_job_file_writes_stays(connect: Connect) -> None:
    """The connection changes nothing that the file names, so neither the scorer nor the pace."""
    connect(extra={"model": "other/model", "requests_per_minute": 5, "app_title": "Other"})
    written = {
        "url": OPENROUTER_URL,
        "model": "cohere/rerank-v3.5",
        "requests_per_minute": 900,
        "app": {"title": "Mine"},
        "provider": {"order": ["cohere"], "allow_fallbacks": False},
    }

    job, completed = make_job(**written), OpenRouterHook("shop").complete(make_job(**written))

    assert completed == job.model_copy(update={"endpoint": completed.endpoint})
    assert completed.endpoint.model_dump() == job.endpoint.model_dump()
    assert identify_scorer(completed) == identify_scorer(job)


def test_a_connection_without_a_host_is_for_openrouter(connect: Connect) -> None:
    """Only the key is needed; empty fields that a form leaves behind count for nothing."""
    connect(host="", extra={"model": "", "requests_per_minute": None, "app_url": ""})
    endpoint = complete()
    assert endpoint.url == OPENROUTER_URL
    assert endpoint.model_fields_set == {"url"}


@pytest.mark.parametrize(
    "uri",
    [
        f"openrouter://:{KEY}@https%3A%2F%2Fproxy.example%2Fapi%2Fv1/?requests_per_minute=60",
        f"openrouter://https://:{KEY}@proxy.example/api%2Fv1?requests_per_minute=60",
        f"openrouter://https://:{KEY}@proxy.example:443/api%2Fv1?requests_per_minute=60",
    ],
)
def test_a_connection_may_be_written_as_a_uri(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """Base URL, key and fields are found in each form of URI that Airflow reads."""
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", uri)
    endpoint = complete()
    assert endpoint.url.replace(":443", "") == "https://proxy.example/api/v1"
    assert endpoint.requests_per_minute == 60
    key = read_api_key(endpoint)
    assert key is not None
    assert key.reveal() == KEY


def test_a_uri_with_the_key_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """``openrouter://:KEY@`` is a whole connection to OpenRouter."""
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"openrouter://:{KEY}@")
    endpoint = complete()
    key = read_api_key(endpoint)
    assert key is not None
    assert (endpoint.url, key.reveal()) == (OPENROUTER_URL, KEY)


def test_a_key_is_sent_to_no_other_server_than_its_own(connect: Connect) -> None:
    """A job file that names another server, port or scheme is refused before anything is sent."""
    connect()
    for url in ("https://api.cohere.com/v2", "http://openrouter.ai/api/v1"):
        with pytest.raises(JobError, match="its key is sent nowhere else"):
            complete(url=url)
    assert complete(url="https://OPENROUTER.ai:443/api/v2").url.endswith("/api/v2")


def test_an_unknown_connection_is_told_by_airflows_own_words() -> None:
    """It is retried: a secrets backend that is away looks the same."""
    untold = pytest.raises(AirflowNotFoundException, match="`nowhere` isn't defined")
    with untold, report_failures():
        OpenRouterHook("nowhere").complete(make_job())


def test_the_embedded_endpoint_needs_no_connection() -> None:
    """A job that names it is left as it is, even where no such connection exists."""
    job = make_job(url="embedded")
    assert OpenRouterHook("nowhere").complete(job) is job


def test_the_connections_key_comes_before_the_environments(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a connection the variable is not read: not even for a connection without a key."""
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-from-environment")
    connect()
    key = read_api_key(complete())
    assert key is not None
    assert key.reveal() == KEY
    connect(password="")
    with pytest.raises(KeyStop, match=r"openrouter\.ai: put it into the connection shop"):
        read_api_key(complete())
    connect(password="", host="http://127.0.0.1:8000/v1")
    assert read_api_key(complete()) is None


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"conn_type": "postgres"}, JobError, "shop is of type postgres: name one of type"),
        ({"host": "openrouter.ai"}, JobError, "must begin with https://"),
        ({"host": f"https://u:{KEY}@x.example"}, JobError, "without credentials"),
        ({"extra": f"[{KEY}"}, JobError, "no JSON object"),
        ({"extra": {"requests_per_minute": KEY}}, JobError, "shop: requests_per_minute: "),
        ({"extra": {"requests_per_minute": 0}}, JobError, "shop: requests_per_minute: "),
        ({"extra": {"app_url": KEY}}, JobError, "shop: app.url: "),
        ({"password": f"{KEY} {KEY}"}, KeyStop, "shop holds characters that no API key has"),
    ],
)
def test_a_connection_that_cannot_be_used_is_told_without_its_values(
    connect: Connect, fields: dict[str, Any], kind: type[RerankJobsError], message: str
) -> None:
    """One line names connection and field; no value stands in it: it may be a key gone astray."""
    connect(**fields)
    with pytest.raises(kind, match=message) as caught:
        complete()
    assert KEY not in str(caught.value)


def test_nothing_shows_a_key_that_an_endpoint_holds(connect: Connect) -> None:
    """No repr, dump, JSON or pickle of the job, and no setting of the engine, holds the key."""
    connect()
    job = OpenRouterHook("shop").complete(make_job())
    settings = ScoreSettings.from_endpoint(job.endpoint, None)
    shown = [repr(job), str(job), job.model_dump_json(), repr(job.endpoint), repr(settings)]
    shown += [repr(vars(job.endpoint)), repr(job.endpoint.held_key), repr(job.model_dump())]
    assert not any(KEY in text for text in shown)
    assert "held_key" not in json.dumps(Endpoint.model_json_schema())
    assert settings.target.key_place == "the connection shop"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(job)


def test_airflow_masks_the_key_from_then_on(connect: Connect) -> None:
    """Once read, the bare key is masked in whatever Airflow logs, though it stood amid blanks."""
    from airflow.sdk.log import mask_logs

    key = "sk-or-v1-amidblanks"
    connect(password=f"  {key} ")
    complete()
    logged = mask_logs(None, "info", {"event": f"Authorization: Bearer {key}"})
    assert logged == {"event": "Authorization: Bearer ***"}


def test_a_plan_is_scored_and_published_by_its_own_scorer_alone(
    connect: Connect, make_table: Callable[..., Table]
) -> None:
    """Whoever edits the connection's model after planning is told; no score of another mixes in."""
    host = "http://127.0.0.1:9/api/v1"
    table = make_table("p", job={})
    connect(host=host, extra={"model": "one/model"})
    (shard,), _ = steps.plan(str(table.job_file), "p", "shop")
    connect(host=host, extra={"model": "two/model"})

    with pytest.raises(JobError, match="clear the plan task to plan anew"):
        steps.score(str(table.job_file), shard, {"kind": "test"}, "shop")
    with pytest.raises(JobError, match="clear the plan task to plan anew"):
        steps.publish(str(table.job_file), "p", shard["plan_id"], [], "shop")


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """Serve the instant endpoint behind the key."""
    with serve_guarded(KEY) as url:
        yield url


@pytest.mark.parametrize(
    ("fields", "well", "message"),
    [
        ({}, True, "takes the key"),
        ({"password": "sk-or-v1-wrong"}, False, "the key is refused"),
        ({"host": "http://127.0.0.1:9/api/v1"}, False, "no connection"),
        ({"conn_type": "http"}, False, "is of type http"),
    ],
)
def test_the_connection_is_tested_by_a_question_that_costs_nothing(
    connect: Connect, guarded_url: str, fields: dict[str, Any], well: bool, message: str
) -> None:
    """The button says whether the server takes the key, and never the key."""
    connect(**{"host": guarded_url, **fields})
    found, said = OpenRouterHook("shop").test_connection()
    assert found is well
    assert message in said
    assert KEY not in said
