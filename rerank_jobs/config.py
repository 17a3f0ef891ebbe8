"""The job file: YAML in, one frozen, fully validated ``Job`` out.

Every mistake is one line that names the key, what is wrong and what to write instead; unknown keys
are refused with the nearest known name. Relative paths are taken from the job file's own folder, so
the same file works from any working directory (a shell, an Airflow worker).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rerank_jobs.errors import JobError
from rerank_jobs.job_text import show_value
from rerank_jobs.places import ALL, check_partition_key, check_template, is_inside
from rerank_jobs.secret import Secret, read_secret

__all__ = [
    "ALL",
    "API_SEARCH_USD",
    "EMBEDDED",
    "Job",
    "Layout",
    "Secret",
    "check_partition_key",
    "read_api_key",
]

EMBEDDED = "embedded"
"""The endpoint URL that stands for the endpoint inside this process."""

API_SEARCH_USD = 0.001
"""Price of one search unit of cohere/rerank-v3.5 on OpenRouter."""

Layout = Literal["long", "nested", "search_log"]

_MEMORY_SHAPE = re.compile(r"(?i)\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*")
_MEMORY_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_MEMORY_LEAST = 10**8
_VARIABLE_SHAPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def _parse_memory(value: object) -> object:
    size = value
    if isinstance(value, str) and (match := _MEMORY_SHAPE.fullmatch(value)):
        size = int(float(match[1]) * _MEMORY_UNITS[match[2].lower()])
    if not isinstance(size, int) or size < _MEMORY_LEAST:
        raise ValueError(f"must be a size of at least 100MB, such as 1GB, got {show_value(value)}")
    return size


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Dollars = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_yes_and_no(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where a number stands: YAML reads yes, no, on and off as them."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError(f"must not be true or false (YAML's yes, no, on, off), got {value}")
        return value


class Columns(_Part):
    """Which column (or, in list layouts, which field of the candidate struct) plays which role."""

    query_id: str | None = None
    query: str = "query"
    document_id: str = "document_id"
    document: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ("document",)
    first_stage_score: str | None = None
    first_stage_rank: str | None = None
    candidates: str | None = None
    position: str | None = None
    clicked: str | None = None
    search_id: str | None = None


class Input(_Part):
    """Where the candidate table is and how it is shaped."""

    path: str
    layout: Layout = "long"
    columns: Columns = Columns()
    on_bad_rows: Literal["reject", "fail"] = "reject"

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        columns = self.columns
        if not columns.document:
            raise ValueError("columns.document: name at least one column")
        if len(set(columns.document)) < len(columns.document):
            raise ValueError("columns.document names a column twice")
        if self.layout == "long":
            if columns.query_id is None:
                raise ValueError("columns.query_id is needed in layout long")
            for role in ("candidates", "position", "clicked", "search_id"):
                if getattr(columns, role) is not None:
                    raise ValueError(f"columns.{role} belongs to layout nested or search_log")
        elif columns.candidates is None:
            raise ValueError(
                f"columns.candidates must name the list column in layout {self.layout}"
            )
        return self


class Partition(_Part):
    """How a partition key becomes a folder name."""

    template: str = "{key}"

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        check_template(self.template)
        return self


class Candidates(_Part):
    """Which candidates are worth paying for."""

    top_k: Annotated[int, Field(ge=1)] | None = None


class Output(_Part):
    """Where published tables go; nothing else is written there."""

    path: str
    replace: bool = False


class State(_Part):
    """Where plans, paid scores and manifests live; ``None``: beside the output."""

    path: str | None = None


class Endpoint(_Part):
    """Which endpoint scores, at which pace and price."""

    url: str = EMBEDDED
    dialect: Literal["openrouter"] = "openrouter"
    model: str = "cohere/rerank-v3.5"
    revision: str = ""
    api_key_env: str = "OPENROUTER_API_KEY"
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    timeout_seconds: Annotated[float, Field(ge=1, le=600)] = 90
    patience_seconds: Annotated[float, Field(ge=0, le=86_400)] = 600
    usd_per_search: Dollars | None = None

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.url != EMBEDDED and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", self.url):
            raise ValueError("url must be 'embedded' or http(s)://host/path, without credentials")
        if not _VARIABLE_SHAPE.fullmatch(self.api_key_env):
            # The value is not repeated: it may be the key itself.
            raise ValueError(
                "api_key_env must be the name of an environment variable (letters, digits, _)"
                " that holds the key, never the key itself"
            )
        return self

    @property
    def embedded(self) -> bool:
        """Whether the endpoint runs inside this process, for nothing."""
        return self.url == EMBEDDED

    @property
    def price_usd(self) -> float:
        """Dollars that one search unit is planned with."""
        if self.usd_per_search is not None:
            return self.usd_per_search
        return 0.0 if self.embedded else API_SEARCH_USD

    @property
    def pace(self) -> int | None:
        """Requests a minute, ``None`` for unpaced: the embedded endpoint unless asked."""
        if self.requests_per_minute is None:
            return None if self.embedded else 1000
        return self.requests_per_minute


class Context(_Part):
    """How much text the model sees, and what happens to longer documents (tokens)."""

    tokens: Annotated[int, Field(ge=64, le=1_000_000)] = 4096
    long_documents: Literal["window", "truncate", "fail"] = "window"
    overlap_tokens: Annotated[int, Field(ge=0, le=1024)] = 128

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap_tokens * 4 > self.tokens:
            raise ValueError("overlap_tokens must be at most a quarter of tokens")
        return self


class Budget(_Part):
    """The most that one partition's plan may cost; a dearer plan sends nothing."""

    max_usd: Dollars | None = None


class Failures(_Part):
    """What happens to documents that the endpoint refuses, and how many may."""

    on_failed: Literal["demote", "keep_first_stage", "fail"] = "demote"
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.001


def _unread_yaml_off(value: object) -> object:
    """YAML reads a bare ``off`` as false."""
    return "off" if value is False else value


class Reuse(_Part):
    """When scores of earlier plans are used instead of paid again."""

    mode: Annotated[Literal["cheapest", "strict", "off"], BeforeValidator(_unread_yaml_off)] = (
        "cheapest"
    )
    max_age_days: Annotated[float, Field(gt=0)] = 90


class Ledger(_Part):
    """When paid replies are sealed to disk: whichever bound is reached first."""

    max_unsaved_replies: Annotated[int, Field(ge=1)] = 256
    max_unsaved_seconds: Annotated[float, Field(gt=0)] = 2.0
    max_unsaved_usd: Annotated[float, Field(gt=0)] = 0.10


class Shards(_Part):
    """How large the units of parallel work are."""

    rows_per_shard: Annotated[int, Field(ge=1)] = 100_000


class Job(_Part):
    """A whole job file. ``base`` is the folder that relative paths start from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    input: Input
    output: Output
    partition: Partition = Partition()
    candidates: Candidates = Candidates()
    state: State = State()
    endpoint: Endpoint = Endpoint()
    context: Context = Context()
    budget: Budget = Budget()
    failures: Failures = Failures()
    reuse: Reuse = Reuse()
    ledger: Ledger = Ledger()
    shards: Shards = Shards()
    memory: Annotated[int, BeforeValidator(_parse_memory), Field(ge=100_000_000)] = 10**9
    base: Annotated[Path, Field(exclude=True)] = Path()

    @model_validator(mode="after")
    def _check_roots(self) -> Self:
        paths = {"input": self.input.path, "output": self.output.path, "state": self.state.path}
        for part, path in paths.items():
            if path == "":
                raise ValueError(f"{part}.path must not be empty")
            if part != "input" and "{partition}" in (path or ""):
                raise ValueError(
                    f"{part}.path: leave {{partition}} out: its folder comes by itself"
                )
        for root in (self.output_root, self.rejected_root):
            if is_inside(root, self.state_root) or is_inside(self.state_root, root):
                raise ValueError(
                    "state.path and output.path must not lie inside each other: whoever reads the"
                    " output would read the state too"
                )
        return self

    def resolve(self, path: str) -> str:
        """Return ``path`` as a location: absolute if local, a URL such as s3://… as it is."""
        if "://" in path:
            return path.rstrip("/")
        # Path.resolve() would follow links: a location stays the one that its owner wrote.
        return os.path.abspath(self.base / os.path.expanduser(path))  # noqa: PTH100, PTH111

    @property
    def output_root(self) -> str:
        """The location that holds published tables only."""
        return self.resolve(self.output.path)

    @property
    def rejected_root(self) -> str:
        """The location of rows that were refused before any call."""
        return self.output_root + ".rejected"

    @property
    def state_root(self) -> str:
        """The location of everything that is not published data."""
        return self.resolve(self.state.path) if self.state.path else self.output_root + ".state"

    def partition_folder(self, key: str) -> str:
        """Return the folder name of a partition, ``""`` for the unpartitioned table."""
        return "" if key == ALL else self.partition.template.replace("{key}", key)

    def input_location(self, key: str) -> str:
        """Return where the partition's input stands.

        Raises:
            JobError: the path holds ``{partition}`` and no key was given.

        """
        if "{partition}" in self.input.path and key == ALL:
            raise JobError(
                f"job {self.name}: input.path holds {{partition}}: name one with --partition KEY"
            )
        return self.resolve(self.input.path.replace("{partition}", self.partition_folder(key)))

    def policy(self) -> dict[str, object]:
        """Return what of the job decides which bytes come out: a part of the plan's identity.

        Budget, pace, gates, memory and sealing are left out: changing them must not make a plan's
        paid scores those of another plan.
        """
        return {
            "layout": self.input.layout,
            "columns": self.input.columns.model_dump(mode="json"),
            "on_bad_rows": self.input.on_bad_rows,
            "top_k": self.candidates.top_k,
            "context": self.context.model_dump(mode="json"),
            "on_failed": self.failures.on_failed,
            "reuse": self.reuse.model_dump(mode="json"),
            "replace": self.output.replace,
        }


def read_api_key(endpoint: Endpoint) -> Secret | None:
    """Return the key for the endpoint, ``None`` where none is needed.

    Raises:
        KeyStop: see ``read_secret``.

    """
    return None if endpoint.embedded else read_secret(endpoint.api_key_env, endpoint.url)
