"""Named ways in which a good reply can go bad, or only look odd; any of them can be combined."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.property.reply_oracle import CONTRACTS

OVERFLOW = "@overflow@"
"""Stands for a number that no double holds: replaced in the bytes."""


@dataclass(slots=True)
class Draft:
    """An answer in the making: ``data`` becomes the body, ``edits`` change its bytes."""

    api: str
    data: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    edits: list[Callable[[bytes], bytes]] = field(default_factory=list)

    def results(self) -> list[Any]:
        """Return the list of results, an empty one if there is none any more."""
        name = CONTRACTS[self.api]["list"]
        found = self.data
        if name is not None:
            found = self.data.get(name) if isinstance(self.data, dict) else None
        return found if isinstance(found, list) else []

    def replace(self, results: Any) -> None:
        name = CONTRACTS[self.api]["list"]
        if name is None:
            self.data = results
        elif isinstance(self.data, dict):
            self.data[name] = results

    def body(self) -> bytes:
        text = json.dumps(self.data, ensure_ascii=False)
        body = text.replace(f'"{OVERFLOW}"', "1e999").encode("utf-8", "surrogatepass")
        for edit in self.edits:
            body = edit(body)
        return body


def make_draft(api: str, n: int, rng: random.Random) -> Draft:
    """Return a valid reply of the API to ``n`` texts."""
    contract = CONTRACTS[api]
    results = [{"index": index, contract["score"]: rng.uniform(-2, 2)} for index in range(n)]
    rng.shuffle(results)
    if contract["list"] is None:
        return Draft(api, results, headers={contract["tokens header"]: str(rng.randrange(999))})
    draft = Draft(api, {"id": "r-1", "model": "some/model", contract["list"]: results})
    for key, value in (("units", 1), ("tokens", rng.randrange(9999)), ("cost", 0.001)):
        if key in contract:
            _plant(draft.data, contract[key], value)
    return draft


def _plant(data: Any, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        if not isinstance(data, dict):
            return
        data = data.setdefault(key, {})
    if isinstance(data, dict):
        data[path[-1]] = value


Mutation = Callable[[Draft, random.Random], None]


def in_result(key: str | None, *values: Any) -> Mutation:
    """Set the index (key "index") or the score (key None) of one result to one of ``values``."""

    def mutate(draft: Draft, rng: random.Random) -> None:
        results = [result for result in draft.results() if isinstance(result, dict)]
        if results:
            name = key or CONTRACTS[draft.api]["score"]
            rng.choice(results)[name] = rng.choice(values)

    return mutate


def without(key: str | None) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        results = [result for result in draft.results() if isinstance(result, dict)]
        if results:
            rng.choice(results).pop(key or CONTRACTS[draft.api]["score"], None)

    return mutate


def with_list(change: Callable[[list[Any], random.Random], Any]) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        results = draft.results()
        if results:
            draft.replace(change(list(results), rng))

    return mutate


def at_top(key: str, *values: Any) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        if isinstance(draft.data, dict):
            draft.data[key] = rng.choice(values)

    return mutate


def at_path(name: str, *values: Any) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        if name in CONTRACTS[draft.api]:
            _plant(draft.data, CONTRACTS[draft.api][name], rng.choice(values))

    return mutate


def in_bytes(edit: Callable[[bytes, random.Random], bytes]) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        draft.edits.append(lambda body: edit(body, rng))

    return mutate


def _repeat_index(results: list[Any], rng: random.Random) -> Any:
    if len(results) > 1 and all(isinstance(result, dict) for result in results):
        one, other = rng.sample(range(len(results)), 2)
        results[one] = {**results[one], "index": results[other].get("index")}
    return results


def _rename_score(draft: Draft, rng: random.Random) -> None:
    score = CONTRACTS[draft.api]["score"]
    others = {"relevance_score", "score", "relevanceScore", "logit"} - {score}
    for result in draft.results():
        if isinstance(result, dict) and score in result:
            result[rng.choice(sorted(others))] = result.pop(score)


def _rename_list(draft: Draft, rng: random.Random) -> None:
    name = CONTRACTS[draft.api]["list"]
    others = sorted({"results", "data", "rankings", "result"} - {name})
    if isinstance(draft.data, dict) and name in draft.data:
        draft.data[rng.choice(others)] = draft.data.pop(name)
    elif name is None:
        draft.data = {rng.choice(others): draft.data}


def _move_usage(draft: Draft, rng: random.Random) -> None:
    usage = {"search_units": 7, "total_tokens": 70, "cost": 0.07}
    if isinstance(draft.data, dict):
        for key in ("usage", "meta"):
            draft.data.pop(key, None)
        draft.data |= rng.choice([usage, {"billing": usage}, {"meta": usage}])


def _set_status(*statuses: int) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        draft.status = rng.choice(statuses)

    return mutate


def _set_header(draft: Draft, rng: random.Random) -> None:
    values = ["", "x", "-1", "1.5", "007", "2147483648", "99999999999", "12", "\u00b2", "\u0663"]
    draft.headers["x-compute-tokens"] = rng.choice(values)


def _wrap(draft: Draft, _rng: random.Random) -> None:
    draft.data = [draft.data]


def _replace_body(draft: Draft, rng: random.Random) -> None:
    draft.data = rng.choice([None, True, 7, "text", {}])


def _add_key(draft: Draft, rng: random.Random) -> None:
    for result in draft.results():
        if isinstance(result, dict):
            result["document"] = rng.choice([{"text": "\u00e4 \u4e2d"}, "a", None, [1]])
    if isinstance(draft.data, dict):
        draft.data["new"] = {"deep": [1, {"index": 0}]}


def _flip(body: bytes, rng: random.Random) -> bytes:
    if not body:
        return body
    place = rng.randrange(len(body))
    return body[:place] + bytes([rng.randrange(256)]) + body[place + 1 :]


def _insert(what: bytes) -> Mutation:
    def edit(body: bytes, rng: random.Random) -> bytes:
        place = rng.randrange(len(body) + 1)
        return body[:place] + what + body[place:]

    return in_bytes(edit)


ODD: tuple[Any, ...] = (True, "1", -1, 1.5, 2.0**31, 2**70, None, [1], {})

MUTATIONS: dict[str, tuple[Mutation, str | None]] = {
    "shuffled": (with_list(lambda results, rng: rng.sample(results, len(results))), "scored"),
    "a result dropped": (with_list(lambda results, _: results[1:]), "broken"),
    "a result too many": (with_list(lambda r, _: [*r, {**r[0], "index": len(r)}]), "broken"),
    "a result twice": (with_list(lambda r, _: [*r, r[0]]), "broken"),
    "an index repeated": (with_list(_repeat_index), "broken"),
    "no results": (with_list(lambda *_: []), "broken"),
    "results of a wrong kind": (
        with_list(lambda _, rng: rng.choice([None, {"0": 0.5}, "0.5", 7, True])),
        "broken",
    ),
    "a result of a wrong kind": (
        with_list(lambda r, rng: [rng.choice([None, 0.5, [0, 0.5], "x"]), *r[1:]]),
        "broken",
    ),
    "the list renamed": (_rename_list, "broken"),
    "a negative index": (in_result("index", -1, -2), "broken"),
    "an index out of range": (in_result("index", 99, 2**31, 2**63, 2**70, -(2**70)), "broken"),
    "a fractional index": (in_result("index", 0.0, 1.0, 0.5), "broken"),
    "a string index": (in_result("index", "0", "1", ""), "broken"),
    "a boolean index": (in_result("index", True, False), "broken"),
    "an index of a wrong kind": (in_result("index", None, [0], {}), "broken"),
    "an index left out": (without("index"), "broken"),
    "a score that is not a number": (in_result(None, float("nan")), "broken"),
    "an endless score": (in_result(None, float("inf"), float("-inf")), "broken"),
    "a score beyond a double": (in_result(None, OVERFLOW, 10**400), "broken"),
    "a string score": (in_result(None, "0.5", "", "NaN"), "broken"),
    "a boolean score": (in_result(None, True, False), "broken"),
    "a score of a wrong kind": (in_result(None, None, [0.5], {}), "broken"),
    "a score left out": (without(None), "broken"),
    "the score renamed": (_rename_score, "broken"),
    "a whole score": (in_result(None, 0, 1, -3, 2**53 + 1, 2**64, 10**30), "scored"),
    "an extreme score": (in_result(None, 5e-324, -1.7e308, -0.0, 1e22), "scored"),
    "echoed documents and new keys": (_add_key, "scored"),
    "odd search units": (at_path("units", *ODD), "scored"),
    "whole search units": (at_path("units", 0, 2.0, 31), "scored"),
    "odd tokens": (at_path("tokens", *ODD), "scored"),
    "an odd cost": (at_path("cost", True, "1", -0.001, None, [1], {}), "scored"),
    "a sound cost": (at_path("cost", 0, 1, 0.25, 2**70), "scored"),
    "usage of a wrong kind": (at_top("usage", None, 7, [], "x", {}), "scored"),
    "meta of a wrong kind": (at_top("meta", None, 7, {"billed_units": 1}, {}), "scored"),
    "usage elsewhere": (_move_usage, "scored"),
    "an odd header": (_set_header, "scored"),
    "another model": (at_top("model", "rerank-v4.0-pro", "ä", "x" * 200), "scored"),
    "a model of a wrong kind": (at_top("model", None, 7, "", ["m"], "a\x00b", "x" * 201), None),
    "an odd id": (at_top("id", None, 7, "", [], "a\nb", "x" * 201, "ok"), "scored"),
    "an odd provider": (at_top("provider", None, {}, "", "a\tb", "Cohere"), "scored"),
    "error is null": (at_top("error", None), "scored"),
    "an error with a code": (
        at_top("error", {"code": 429}, {"code": "503"}, {"http_status": 402, "message": "x"}),
        None,
    ),
    "an error with a type": (
        at_top("error", {"error_type": "authentication"}, {"error_type": "rate_limit_exceeded"}),
        None,
    ),
    "an error without a code": (
        at_top("error", "x", {}, [], 7, False, {"code": 200}, {"code": True}, {"code": 429.5}),
        None,
    ),
    "another success": (_set_status(201, 202, 206, 299), "scored"),
    "an error status": (_set_status(300, 400, 401, 404, 422, 429, 500, 503, 524, 599), "refused"),
    "the body in a list": (_wrap, "broken"),
    "another body": (_replace_body, "broken"),
    "truncated": (in_bytes(lambda body, rng: body[: rng.randrange(len(body) or 1)]), "broken"),
    "empty": (in_bytes(lambda *_: b""), "broken"),
    "HTML": (in_bytes(lambda *_: b"<!DOCTYPE html><title>502</title>"), "broken"),
    "plain text": (in_bytes(lambda *_: b"error code: 1015"), "broken"),
    "a byte order mark": (in_bytes(lambda body, _: b"\xef\xbb\xbf" + body), "broken"),
    "UTF-16": (
        in_bytes(lambda body, _: body.decode("utf-8", "replace").encode("utf-16")),
        "broken",
    ),
    "blanks around": (in_bytes(lambda body, _: b" \r\n\t" + body + b"\n"), "scored"),
    "text behind": (in_bytes(lambda body, _: body + b"}"), "broken"),
    "a second body": (in_bytes(lambda body, _: body + body), "broken"),
    "a comma behind": (in_bytes(lambda body, _: body[:-1] + b"," + body[-1:]), "broken"),
    "a key twice": (in_bytes(lambda b, _: b[:-1] + b',"id":7,"model":"m"}' if b else b), None),
    "not UTF-8": (in_bytes(lambda body, _: body[:-1] + b"\xff" + body[-1:]), "broken"),
    "a lone surrogate": (at_top("note", "\ud800"), None),
    "an escaped lone surrogate": (
        in_bytes(lambda b, _: b[:-1] + b',"note":"\\ud800"}' if b else b),
        "broken",
    ),
    "nested deeply": (in_bytes(lambda *_: b"[" * 100_000), "broken"),
    "a control character": (_insert(b"\x01"), "broken"),
    "a byte flipped": (in_bytes(_flip), None),
    "a digit more": (_insert(b"0"), None),
}
"""By name: the mutation, and the verdict that it alone must lead to (None: it depends)."""
