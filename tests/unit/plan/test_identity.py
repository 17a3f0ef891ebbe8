"""Keys, routing and digests, in Python and in SQL."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_jobs.config import Endpoint
from rerank_jobs.config.endpoint import App
from rerank_jobs.errors import InputError
from rerank_jobs.plan.identity import (
    compute_key,
    compute_keys,
    digest_json,
    key_sql,
    plan_id,
    route,
    route_sql,
    scorer_id,
)

SALT = bytes(range(32))
FROZEN_SCORER = "c22aa9e3a5e532a32ca7770168fced73"
FROZEN_PLAN = "059b240734f1ea5df796e69fa0663e1b"
ODD = [
    "",
    " ",
    "a",
    "a\x00b",
    "\x00",
    "\\x41",
    "'",
    "naïve",
    "nai\u0308ve",
    "日本語",
    "🙂" * 9,
    "\ufeff",
]


def test_key_is_the_head_of_a_salted_digest() -> None:
    """A key is the first 16 bytes of SHA-256(salt + UTF-8 text)."""
    assert compute_key(b"salt", "née") == hashlib.sha256("saltnée".encode()).digest()[:16]


def test_keys_do_not_normalise() -> None:
    """Two spellings that Unicode calls equivalent are two texts: they are sent as they are."""
    assert compute_key(SALT, "n\u00e9e") != compute_key(SALT, "ne\u0301e")


def test_a_salt_changes_every_key() -> None:
    """The key of a text cannot be guessed without the salt."""
    assert compute_key(b"a" * 32, "text") != compute_key(b"b" * 32, "text")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_keys_of_arrow_arrays(kind: pa.DataType) -> None:
    """Arrow arrays of each string type, sliced or chunked, get the keys of their texts."""
    array = pa.array(["before", *ODD], kind).slice(1)
    expected = [compute_key(SALT, text) for text in ODD]
    assert compute_keys(SALT, array) == expected
    assert compute_keys(SALT, pa.chunked_array([array, array])) == expected * 2
    assert compute_keys(SALT, ODD) == expected


def test_null_has_no_key() -> None:
    """A null is refused rather than keyed as an empty text."""
    with pytest.raises(InputError, match="null"):
        compute_keys(SALT, pa.array(["a", None]))


def test_lone_surrogate_is_refused_without_its_text() -> None:
    """A text that UTF-8 cannot hold is an input error that does not carry the text."""
    with pytest.raises(InputError) as caught:
        compute_key(SALT, "secret words \ud800")
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@settings(max_examples=40)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
    st.integers(1, 256),
    st.binary(min_size=1, max_size=40),
)
def test_sql_equals_python(texts: list[str], shards: int, salt: bytes) -> None:
    """DuckDB computes the same keys and shards as Python, on odd texts and null too."""
    texts = texts + ODD
    table = pa.table({"the text": pa.array([*texts, None], pa.string())})
    with duckdb.connect() as connection:
        connection.register("t", table)
        key, shard = key_sql('"the text"', salt), route_sql('"the text"', shards)
        rows = connection.sql(f"SELECT {key}, {shard}, typeof({key}), typeof({shard}) FROM t")
        result = rows.fetchall()
    for text, (key, shard, key_type, shard_type) in zip(texts, result[:-1], strict=True):
        assert key == compute_key(salt, text)
        assert shard == route(text, shards)
        assert 0 <= shard < shards
        assert (key_type, shard_type) == ("BLOB", "INTEGER")
    assert result[-1][:2] == (None, None)


def test_route_spreads_queries() -> None:
    """Shards get about equal shares of many queries, and the routing never changes."""
    counts = [0] * 8
    for number in range(4000):
        counts[route(f"query {number}", 8)] += 1
    assert min(counts) > 400
    assert max(counts) < 600
    assert [route("running shoes", shards) for shards in (1, 7, 256)] == [0, 3, 127]


def test_scorer_ids_tell_every_part_apart() -> None:
    """Different URLs, models, revisions or embedded versions never share a scorer id."""
    urls = [
        "https://openrouter.ai/api/v1",
        "http://openrouter.ai/api/v1",
        "https://openrouter.ai/api/v2",
        "https://openrouter.ai/API/v1",
        "https://openrouter.ai/api/v1//",
        "https://openrouter.ai",
        "https://openrouter.ai:8443/api/v1",
        "https://eu.openrouter.ai/api/v1",
        "http://127.0.0.1:8080",
        "http://embedded/1",
    ]
    endpoints = [
        Endpoint(url=url, model=model, revision=revision)
        for url, model, revision in itertools.product(
            [*urls, "embedded"], ["cohere/rerank-v3.5", "cohere/rerank-4-fast"], ["", "2"]
        )
    ]
    ids = [scorer_id(endpoint, "1") for endpoint in endpoints]
    ids += [scorer_id(endpoint, "2") for endpoint in endpoints if endpoint.embedded]
    assert len(set(ids)) == len(ids) == 48


def test_scorer_id_ignores_spelling_of_one_url() -> None:
    """Host case, a default port and one trailing slash do not make another scorer."""
    spellings = ["https://h.example/v1", "https://H.Example/v1/", "https://h.example:443/v1"]
    assert len({scorer_id(Endpoint(url=url), "1") for url in spellings}) == 1


def test_scorer_id_ignores_pace_and_price() -> None:
    """What a reply costs and how fast it comes does not change what it says."""
    slow = Endpoint(url="https://h.example", requests_per_minute=1, usd_per_search=5)
    assert scorer_id(slow, "1") == scorer_id(Endpoint(url="https://h.example"), "2")


def test_scorer_id_names_what_routes_a_request() -> None:
    """Each provider preference and option makes another scorer; empty ones are as none."""
    url = "https://openrouter.ai/api/v1"
    providers: list[dict[str, Any]] = [
        {"only": ["cohere"]},
        {"only": ["cohere", "azure"]},
        {"only": ["azure", "cohere"]},
        {"ignore": ["cohere"]},
        {"zdr": True},
        {"zdr": False},
        {"max_price": {"request": "0.002"}},
        {"options": {"cohere": {"max_tokens_per_doc": 512}}},
    ]
    endpoints = [
        *(Endpoint.model_validate({"url": url, "provider": value}) for value in providers),
        Endpoint(url=url, options={"truncation": True}),
        Endpoint(url=url, options={"truncation": False}),
        Endpoint(url=url),
    ]
    assert len({scorer_id(endpoint, "1") for endpoint in endpoints}) == len(endpoints)
    empty = Endpoint.model_validate({"url": url, "provider": {}, "options": {}})
    assert scorer_id(empty, "1") == FROZEN_SCORER


def test_scorer_id_ignores_who_asks_and_by_which_way() -> None:
    """Logs, attribution, headers, proxy, CA and shares of limits change no score."""
    url = "https://openrouter.ai/api/v1"
    other = Endpoint(
        url=url,
        user="u",
        session_id="s",
        trace={"trace_id": "t"},
        app=App(url="https://shop.example", title="Shop", categories=("cli-agent",)),
        headers={"X-Team": "search"},
        secret_headers={"X-Token": "TOKEN"},
        proxy="environment",
        ca_file="ca.pem",
        share=0.5,
        tokens_per_minute=1000,
        usd_per_million_tokens=1.0,
        listwise=True,
    )
    assert scorer_id(other, "1") == FROZEN_SCORER


def test_ids_are_frozen() -> None:
    """Ids of this version stay those of published state: a change here orphans paid scores."""
    assert scorer_id(Endpoint(url="https://openrouter.ai/api/v1"), "1") == FROZEN_SCORER
    assert plan_id({"b": [1, 2.5, None, True], "a": {"é": "\ud800"}}) == FROZEN_PLAN


def test_digest_ignores_order_and_spelling_of_numbers() -> None:
    """Order of keys, tuple or list, and 90 or 90.0 give one digest."""
    assert digest_json({"a": 90, "b": (1, 2)}) == digest_json({"b": [1, 2], "a": 90.0})
    assert digest_json(0.0) == digest_json(-0.0)


def test_digest_tells_types_apart() -> None:
    """Values that JSON tells apart never share a digest."""
    values = [1, True, "1", [1], {"1": 1}, None, "null", 1.5, "1.5", [], {}, "", [[1]], 2**53 + 1]
    assert len({digest_json(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [b"x", {1: 2}, {"a": {None: 1}}, {1, 2}, object()])
def test_digest_refuses_what_json_lacks(value: object) -> None:
    """Bytes, sets and keys that are not strings are refused, not silently turned into text."""
    with pytest.raises(TypeError):
        digest_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_digest_refuses_numbers_that_are_not_finite(value: object) -> None:
    """NaN and infinities have no canonical JSON."""
    with pytest.raises(ValueError, match="finite"):
        digest_json(value)
