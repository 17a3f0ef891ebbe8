"""The job file as a person wrote it: strict YAML, and mistakes told in that person's terms."""

from __future__ import annotations

import datetime as dt
import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from rerank_jobs.errors import JobError

__all__ = ["describe_problem", "parse_yaml", "read_mapping", "show_value"]

_SHOWN_CHARACTERS = 80


class _JobLoader(yaml.SafeLoader):
    """YAML without its silent surprise: a key that stands twice is an error, not the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; its keys are unique."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"key {show_value(key.value)} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, kind: str, keys: str, missing: str = "") -> dict[str, Any]:
    """Return what a YAML file of some ``kind`` says, which must be a mapping with such ``keys``.

    ``missing`` is what to do where there is no such file.

    Raises:
        JobError: it cannot be read, is not YAML, or is no mapping.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"{path}: no such {kind}{missing}") from None
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise JobError(f"{path}: cannot be read: save it as UTF-8") from None
    data = parse_yaml(text, path)
    if not isinstance(data, dict):
        raise JobError(f"{path}: a {kind} is a YAML mapping with {keys}")
    return data


def parse_yaml(text: str, path: Path) -> object:
    """Return what a YAML file says.

    Raises:
        JobError: it is not YAML, or a key stands twice.

    """
    try:
        return yaml.load(text, _JobLoader)  # noqa: S506 - a safe loader with one more check
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise JobError(f"{path}: {where}not valid YAML: {problem}") from None
    except ValueError as error:  # such as a date that no calendar has
        raise JobError(f"{path}: not valid YAML: {error}") from None


def describe_problem(model: type[BaseModel], problem: dict[str, Any]) -> str:
    """Return one of pydantic's errors as the key, what is wrong with it and what would do."""
    location = problem["loc"]
    key = ".".join(str(part) for part in location)
    kind = problem["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_keys(model, location[:-1]), n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        return f"{key}: unknown key{hint}"
    if kind == "missing":
        return f"{key}: is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    message = message[0].lower() + message[1:]
    given = problem.get("input")
    scalar = isinstance(given, str | int | float | dt.date | None)
    shown = f", got {show_value(given)}" if scalar else ""
    quotes = ": put it in quotes" if scalar and kind == "string_type" else ""
    return f"{key}: {message}{shown}{quotes}"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int):  # an item of a list, whose kind stands in the field itself
            continue
        field = model.model_fields.get(str(part))
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return [name for name in model.model_fields if name != "base"]


def show_value(value: object) -> str:
    """Return a scalar as it may stand in a message: on one line, and not too long."""
    shown = repr(value) if isinstance(value, str | int | float | None) else str(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
