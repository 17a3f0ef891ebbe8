"""How a job is planned, bounded and kept: context, money, failures, reuse, ledger, shards."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rerank_jobs.config.part import Count, Dollars, Part
from rerank_jobs.job_text import show_value

__all__ = [
    "Budget",
    "Context",
    "Failures",
    "Ledger",
    "Memory",
    "Publish",
    "Reuse",
    "Runtime",
    "Shards",
]

_MEMORY_SHAPE = re.compile(r"(?i)\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*")
_MEMORY_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MEMORY_LEAST = 10**8
_RUNTIME_SHAPE = re.compile(r"(?i)\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*")
_RUNTIME_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def _parse_memory(value: object) -> object:
    size = value
    if isinstance(value, str) and (match := _MEMORY_SHAPE.fullmatch(value)):
        size = int(float(match[1]) * _MEMORY_UNITS[match[2].lower()])
    if not isinstance(size, int) or size < _MEMORY_LEAST:
        raise ValueError(f"must be a size of at least 100MB, such as 1GB, got {show_value(value)}")
    return size


def _parse_runtime(value: object) -> object:
    seconds = value
    if isinstance(value, str) and (match := _RUNTIME_SHAPE.fullmatch(value)):
        seconds = float(match[1]) * _RUNTIME_UNITS[match[2].lower()]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        raise ValueError(f"must be a time above zero, such as 90m or 2h, got {show_value(value)}")
    return seconds


Memory = Annotated[int, BeforeValidator(_parse_memory), Field(ge=100_000_000)]
"""Bytes; a job file may write 1GB."""

Runtime = Annotated[float, BeforeValidator(_parse_runtime), Field(gt=0)]
"""Seconds; a job file may write 90m, 2h or 1d."""


class Context(Part):
    """How much text the model sees, and what happens to longer documents (tokens).

    ``scope: pair``: each passage beside its query fits ``tokens``. ``request``: a whole request
    does, for gateways that count so. ``tokenizer`` names a tokenizer.json that counts exactly.
    """

    tokens: Annotated[int, Field(ge=64, le=1_000_000)] = 4096
    long_documents: Literal["window", "truncate", "fail"] = "window"
    overlap_tokens: Annotated[int, Field(ge=0, le=1024)] = 128
    scope: Literal["pair", "request"] = "pair"
    tokenizer: str | None = None

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap_tokens * 4 > self.tokens:
            raise ValueError("overlap_tokens must be at most a quarter of tokens")
        return self


class Budget(Part):
    """The most that one partition's plan may cost, and the whole state root a UTC day and month.

    A plan that could pass any of them sends nothing.
    """

    max_usd: Dollars | None = None
    max_usd_per_day: Dollars | None = None
    max_usd_per_month: Dollars | None = None


class Failures(Part):
    """What happens to documents that the endpoint refuses, and how many may."""

    on_failed: Literal["demote", "keep_first_stage", "fail"] = "demote"
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001


def _unread_yaml_off(value: object) -> object:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False else value


class Reuse(Part):
    """When scores of earlier plans are used instead of paid again."""

    mode: Annotated[Literal["cheapest", "strict", "off"], BeforeValidator(_unread_yaml_off)] = (
        "cheapest"
    )
    max_age_days: Annotated[float, Field(gt=0)] = 90


Share = Annotated[float, Field(ge=0, le=1)]


class Publish(Part):
    """What publishing keeps to go back to, and how far a ranking may move before a person looks.

    ``keep_generations`` earlier generations can be gone back to, besides the current one. Guards
    are shares of groups: whose first document is another than the first stage's, another than in
    the previous generation, and whose scored documents all have one score.
    """

    keep_generations: Annotated[int, Field(ge=0, le=1000)] = 1
    max_top1_changed: Share | None = None
    max_top1_changed_since: Share | None = None
    max_all_equal: Share | None = None


class Ledger(Part):
    """When paid replies are sealed to disk: whichever bound is reached first.

    A reply weighs 24 bytes for each passage and some 250 beside; the sealed file is smaller.
    """

    max_unsaved_replies: Count = 256
    max_unsaved_bytes: Annotated[int, Field(ge=1000)] = 8_000_000
    max_unsaved_seconds: Annotated[float, Field(gt=0)] = 2.0
    max_unsaved_usd: Annotated[float, Field(gt=0)] = 0.10


class Shards(Part):
    """How large the units of parallel work are."""

    rows_per_shard: Count = 100_000
