"""Replies with status 200 that are not what they should be, made from a good one. Pure.

A spoiler takes a good reply (as ``wire.build_reply`` makes it, at least one result) and a seeded
generator, changes the reply in place, and returns the bytes to be sent.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import orjson

__all__ = ["HARMLESS", "SPOILERS", "Spoiler"]

Reply = dict[str, Any]
Spoiler = Callable[[Reply, random.Random], bytes]
_Edit = Callable[[Reply, random.Random], None]

_MISSING = object()


def _spoil(edit: _Edit) -> Spoiler:
    def spoil(reply: Reply, rng: random.Random) -> bytes:
        edit(reply, rng)
        return orjson.dumps(reply)

    return spoil


def _set_in_result(name: str, value: object) -> Spoiler:
    """Return what gives one result another value, or takes the field away."""

    def edit(reply: Reply, rng: random.Random) -> None:
        _assign(rng.choice(reply["results"]), name, value)

    return _spoil(edit)


def _set(value: object, *path: str) -> Spoiler:
    def edit(reply: Reply, _rng: random.Random) -> None:
        *outer, name = path
        holder = reply
        for part in outer:
            holder = holder[part]
        _assign(holder, name, value)

    return _spoil(edit)


def _assign(holder: dict[str, Any], name: str, value: object) -> None:
    if value is _MISSING:
        del holder[name]
    else:
        holder[name] = value


def _write_score(token: bytes) -> Spoiler:
    """Return what puts a bare token, which need not be JSON, where one score stands."""

    def spoil(reply: Reply, rng: random.Random) -> bytes:
        placeholder = f"{rng.getrandbits(128):032x}"
        rng.choice(reply["results"])["relevance_score"] = placeholder
        return orjson.dumps(reply).replace(f'"{placeholder}"'.encode(), token)

    return spoil


def _repeat_index(reply: Reply, rng: random.Random) -> None:
    results = reply["results"]
    if len(results) == 1:
        results.append(dict(results[0]))
        return
    first, second = rng.sample(range(len(results)), 2)
    results[second]["index"] = results[first]["index"]


def _leave_range(reply: Reply, rng: random.Random) -> None:
    results = reply["results"]
    highest = max(result["index"] for result in results)
    rng.choice(results)["index"] = highest + 1


def _drop_result(reply: Reply, rng: random.Random) -> None:
    reply["results"].pop(rng.randrange(len(reply["results"])))


def _add_result(reply: Reply, rng: random.Random) -> None:
    reply["results"].append(dict(rng.choice(reply["results"])))


def _flatten_results(reply: Reply, _rng: random.Random) -> None:
    reply["results"] = [result["relevance_score"] for result in reply["results"]]


def _map_results(reply: Reply, _rng: random.Random) -> None:
    reply["results"] = {str(result["index"]): result for result in reply["results"]}


def _shuffle(reply: Reply, rng: random.Random) -> None:
    rng.shuffle(reply["results"])


def _drop_documents(reply: Reply, _rng: random.Random) -> None:
    for result in reply["results"]:
        del result["document"]


def _add_unknown_keys(reply: Reply, _rng: random.Random) -> None:
    reply["object"] = "list"
    for result in reply["results"]:
        result["logit"] = None


def _duplicate_keys(reply: Reply, _rng: random.Random) -> bytes:
    """Return JSON whose every score stands twice: -1, then the true one, which counts."""
    true = orjson.dumps(reply)
    return true.replace(b'"relevance_score":', b'"relevance_score":-1,"relevance_score":')


def _write_bom(reply: Reply, _rng: random.Random) -> bytes:
    return b"\xef\xbb\xbf" + orjson.dumps(reply)


def _write_latin(reply: Reply, _rng: random.Random) -> bytes:
    reply["provider"] = "Cohére"
    return json.dumps(reply, ensure_ascii=False).encode("latin-1", "replace")


def _cut_json(reply: Reply, rng: random.Random) -> bytes:
    body = orjson.dumps(reply)
    return body[: rng.randrange(1, len(body))]


def _write_array(reply: Reply, _rng: random.Random) -> bytes:
    return orjson.dumps(reply["results"])


def _write(body: bytes) -> Spoiler:
    def spoil(_reply: Reply, _rng: random.Random) -> bytes:
        return body

    return spoil


SPOILERS: Mapping[str, Spoiler] = {
    "index_missing": _set_in_result("index", _MISSING),
    "index_null": _set_in_result("index", None),
    "index_text": _set_in_result("index", "0"),
    "index_boolean": _set_in_result("index", False),
    "index_fraction": _set_in_result("index", 0.5),
    "index_negative": _set_in_result("index", -1),
    "index_huge": _set_in_result("index", 2**63),
    "index_out_of_range": _spoil(_leave_range),
    "index_repeated": _spoil(_repeat_index),
    "score_missing": _set_in_result("relevance_score", _MISSING),
    "score_null": _set_in_result("relevance_score", None),
    "score_text": _set_in_result("relevance_score", "0.5"),
    "score_boolean": _set_in_result("relevance_score", True),
    "score_list": _set_in_result("relevance_score", [0.5]),
    "score_nan": _write_score(b"NaN"),
    "score_infinity": _write_score(b"Infinity"),
    "score_minus_infinity": _write_score(b"-Infinity"),
    "score_overflow": _write_score(b"1e999"),
    "results_missing": _set(_MISSING, "results"),
    "results_null": _set(None, "results"),
    "results_empty": _set([], "results"),
    "results_text": _set("none", "results"),
    "results_object": _spoil(_map_results),
    "results_of_numbers": _spoil(_flatten_results),
    "results_too_few": _spoil(_drop_result),
    "results_too_many": _spoil(_add_result),
    "results_shuffled": _spoil(_shuffle),
    "results_without_documents": _spoil(_drop_documents),
    "results_with_unknown_keys": _spoil(_add_unknown_keys),
    "usage_missing": _set(_MISSING, "usage"),
    "usage_null": _set(None, "usage"),
    "usage_text": _set("1", "usage"),
    "cost_missing": _set(_MISSING, "usage", "cost"),
    "cost_text": _set("0.001", "usage", "cost"),
    "cost_negative": _set(-1.0, "usage", "cost"),
    "units_missing": _set(_MISSING, "usage", "search_units"),
    "units_fraction": _set(1.5, "usage", "search_units"),
    "model_other": _set("rerank-v3.5-2099-01-01", "model"),
    "model_missing": _set(_MISSING, "model"),
    "model_null": _set(None, "model"),
    "keys_duplicated": _duplicate_keys,
    "body_bom": _write_bom,
    "body_latin_1": _write_latin,
    "body_cut": _cut_json,
    "body_empty": _write(b""),
    "body_null": _write(b"null"),
    "body_array": _write_array,
    "body_html": _write(b"<!DOCTYPE html><html><body>Just a moment...</body></html>"),
    "body_text": _write(b"upstream connect error"),
}
"""Every broken reply by the name of its fault."""

HARMLESS = frozenset(
    {
        "results_shuffled",
        "results_without_documents",
        "results_with_unknown_keys",
        "usage_missing",
        "usage_null",
        "usage_text",
        "cost_missing",
        "cost_text",
        "cost_negative",
        "units_missing",
        "units_fraction",
        "model_other",
        "keys_duplicated",
    }
)
"""Those that still hold every score under its index: a reader has no reason to pay again."""
