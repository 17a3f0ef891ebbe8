"""What the messages of an error say that no code says: size, guilty document, model, parameter.

Messages are free text that may echo a query or a document, so that patterns are anchored, look at
the beginning only and give facts, never text. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

__all__ = ["Complaint", "read_complaint"]

DOCUMENT_FIELDS = frozenset({"documents", "texts", "passages", "inputs", "text_2", "sources"})
CONTENT_FIELDS = DOCUMENT_FIELDS | {"query", "queries", "text_1"}
"""Request fields that hold what is scored; all others are the job's own."""

_MAX_LOOK = 300
_MAX_NESTED = 20_000
_MAX_ITEMS = 20

_PREFIX = re.compile(
    r"\s*(?:[\w.]{0,60}(?:error|exception)\s*[:-]\s*"
    r"|(?:provider returned error|(?:input |request )?validation error|(?:bad|invalid) request)"
    r"\s*:\s*){0,4}",
    re.IGNORECASE,
)
_MODEL_UNKNOWN = re.compile(
    r"no endpoints found|(?:invalid|unknown) model\b"
    r"|(?:the |your )?(?:requested |provided |given )?model\b.{0,120}?"
    r"\b(?:not found|does not exist|not supported|identifier is invalid)"
    r"|[\w./:-]{1,100} is not a valid model",
    re.IGNORECASE,
)
_PARAMETER = re.compile(
    r"(?:json: )?(?:unknown|unexpected|unrecognized|unsupported|extra|extraneous)"
    r" (?:request )?(?:field|parameter|argument|key|option|property)"
    r"|extra (?:inputs|fields) (?:are )?not permitted"
    r"|malformed input request\b.{0,40}\bkey\b"
    r"|failed to deserialize the json body"
    r"|additional properties are not allowed"
    r"|(?:the )?(?:field|parameter|argument|option) [`'\"]?\w{1,60}[`'\"]?"
    r" is (?:not (?:a valid|allowed|supported)|unknown|unsupported|unexpected)",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"[^\"{}]{0,160}?(?:\btoo (?:long|large)\b|\btoo many (?:total |input )?(?:tokens|characters)\b"
    r"|\bmaximum context length\b|\bmust have less than\b|\bdoes not fit into\b|> maximum allowed"
    r"|\b(?:longer|larger|greater|more) than (?:the |its )?(?:maximum|max|limit|allowed|supported)"
    r"|\bexceed(?:s|ed|ing)? (?:the |its |your )?(?:[\w'-]+ ){0,3}?"
    r"(?:maximum|max|limit|allowed|context|supported|\d+ (?:tokens|characters)))",
    re.IGNORECASE,
)
_INDEX = re.compile(
    r"\bindex:? (\d{1,6})\b"
    r"|\b(?:documents?|texts?|passages?|inputs?|sources?)[\[.](\d{1,6})\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the words of an error are about; ``index`` is whatever number stands there."""

    too_long: bool = False
    index: int | None = None
    model_unknown: bool = False
    parameter_refused: bool = False


def read_complaint(error: Mapping[str, Any], whole: Mapping[str, Any]) -> Complaint:
    """Return what an error object and the body around it complain about; never raises.

    Read are messages in every place where servers put them, one JSON body nested in a message as
    text, and the lists of faults of FastAPI ({"loc": …, "msg": …, "type": …}).
    """
    texts = [text for text in _find_texts(error, whole) if text]
    faults = [fault for fault in _find_faults(error, whole) if isinstance(fault, dict)]
    heads = [text[_end_of_prefix(text) :][:_MAX_LOOK] for text in texts]
    too_long = any(map(_TOO_LONG.match, heads)) or any(map(_is_about_size, faults))
    indexes = [*map(_find_index, heads), *map(_find_fault_index, faults)]
    index = next((index for index in indexes if index is not None), None)
    parameter = error.get("param")
    about_job = (
        any(map(_PARAMETER.match, heads))
        or any(map(_is_about_parameter, faults))
        or (isinstance(parameter, str) and _is_parameter(parameter))
    )
    return Complaint(
        too_long=too_long,
        index=index,
        model_unknown=not too_long and any(map(_MODEL_UNKNOWN.match, heads)),
        parameter_refused=about_job and not too_long and index is None,
    )


def _end_of_prefix(text: str) -> int:
    match = _PREFIX.match(text)
    return match.end() if match else 0


def _find_texts(error: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[str]:
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    for text in (*_messages(error), *_messages(whole), raw):
        if isinstance(text, str):
            yield text
            yield from _messages(_parse_nested(text))


def _messages(value: Mapping[str, Any]) -> list[str]:
    inner = value.get("error")
    places = (
        *(value.get(key) for key in ("message", "Message", "detail")),
        inner.get("message") if isinstance(inner, dict) else inner,
    )
    return [text for text in places if isinstance(text, str)]


def _parse_nested(text: str) -> Mapping[str, Any]:
    """Return the JSON object that ends ``text``: gateways wrap an upstream's body into words."""
    start = text.find("{")
    if not 0 <= start <= 100 or len(text) > _MAX_NESTED:
        return {}
    try:
        data = orjson.loads(text[start:])
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _find_faults(error: Mapping[str, Any], whole: Mapping[str, Any]) -> list[Any]:
    for place in (whole.get("detail"), error.get("detail"), error.get("message")):
        if isinstance(place, list):
            return place[:_MAX_ITEMS]
    return []


def _find_index(text: str) -> int | None:
    match = _INDEX.search(text)
    return int(match[1] or match[2]) if match else None


def _split_place(fault: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the way to a fault: up to the content field with it, and from there on."""
    place = fault.get("loc")
    if not isinstance(place, list):
        return [], []
    for number, name in enumerate(place):
        if isinstance(name, str) and name in CONTENT_FIELDS:
            return place[: number + 1], place[number + 1 :]
    return place, []


def _find_fault_index(fault: Mapping[str, Any]) -> int | None:
    head, rest = _split_place(fault)
    if not head or head[-1] not in DOCUMENT_FIELDS:
        return None
    return next((step for step in rest if type(step) is int), None)


def _is_about_size(fault: Mapping[str, Any]) -> bool:
    kind = fault.get("type")
    return isinstance(kind, str) and kind.endswith(("too_long", "max_length", "max_items"))


def _is_about_parameter(fault: Mapping[str, Any]) -> bool:
    head, rest = _split_place(fault)
    names = [name for name in head[1:] if isinstance(name, str)]
    if not names:
        return False
    missing = not rest and "missing" in str(fault.get("type"))
    return missing or names[-1] not in CONTENT_FIELDS


def _is_parameter(name: str) -> bool:
    root = re.split(r"[\[.]", name, maxsplit=1)[0].strip()
    return root.isidentifier() and root not in {*CONTENT_FIELDS, "None", "null", "input"}
