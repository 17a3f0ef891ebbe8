"""The job file: YAML in, one frozen, fully validated ``Job`` out.

Every mistake is one line that names the key, what is wrong and what to write instead; unknown keys
are refused with the nearest known name. Relative paths are taken from the job file's own folder, so
the same file works from any working directory (a shell, an Airflow worker).
"""

from __future__ import annotations

import difflib
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from rerank_jobs.errors import JobError, KeyStop

__all__ = [
    "ALL",
    "API_SEARCH_USD",
    "EMBEDDED",
    "Job",
    "Layout",
    "Secret",
    "check_partition_key",
    "load_job",
    "parse_job",
    "read_api_key",
]

ALL = "_all"
"""The partition key of a job that is not partitioned."""

EMBEDDED = "embedded"
"""The endpoint URL that stands for the endpoint inside this process."""

API_SEARCH_USD = 0.001
"""Price of one search unit of cohere/rerank-v3.5 on OpenRouter."""

Layout = Literal["long", "nested", "search_log"]

_KEY_SHAPE = re.compile(r"[A-Za-z0-9._=|-]{1,250}")
_MEMORY_SHAPE = re.compile(r"(?i)\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*")
_MEMORY_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Secret:
    """An API key that no ``repr``, ``str``, pickle or traceback shows; ``reveal()`` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Hold ``value``, which must not be blank."""
        if not value.strip():
            raise ValueError("a secret must not be blank")
        self._value = value.strip()

    def reveal(self) -> str:
        """Return the key itself: only for the Authorization header."""
        return self._value

    def __repr__(self) -> str:
        """Show nothing."""
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuse to be pickled: a key must not reach XCom or a state file."""
        raise TypeError("a Secret cannot be pickled")


def check_partition_key(key: str) -> str:
    """Return ``key`` if it can name a folder safely, else raise ``JobError``."""
    if not _KEY_SHAPE.fullmatch(key) or ".." in key or key in {".", "-"}:
        raise JobError(
            f"partition key {key!r}: only letters, digits and . _ = | - are allowed, without '..'"
        )
    return key


def _parse_memory(value: object) -> object:
    if isinstance(value, str) and (match := _MEMORY_SHAPE.fullmatch(value)):
        return int(float(match[1]) * _MEMORY_UNITS[match[2].lower()])
    return value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Dollars = Annotated[float, Field(ge=0), AfterValidator(_finite)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


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
        if self.template.count("{key}") != 1 or ".." in self.template:
            raise ValueError("template must hold {key} exactly once, as in ds={key}")
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


class Reuse(_Part):
    """When scores of earlier plans are used instead of paid again."""

    mode: Literal["cheapest", "strict", "off"] = "cheapest"
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
        return "" if key == ALL else self.partition.template.format(key=key)

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


def load_job(path: Path) -> Job:
    """Read and validate a job file.

    Raises:
        JobError: the file is missing, is not YAML, or does not describe a job.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"{path}: no such job file (rerank-jobs init writes one)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: cannot be read: {error}") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise JobError(f"{path}: {where}not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise JobError(f"{path}: a job file is a YAML mapping that begins with name: and input:")
    return parse_job(data, base=path.parent, where=str(path))


def parse_job(data: dict[str, Any], *, base: Path, where: str = "job") -> Job:
    """Validate a job given as a mapping; all problems come in one ``JobError``."""
    if "base" in data:
        raise JobError(f"{where}: base: unknown key")
    try:
        return Job.model_validate({**data, "base": Path(os.path.abspath(base))})  # noqa: PTH100
    except ValidationError as error:
        problems = [_describe(dict(item)) for item in error.errors(include_url=False)]
        raise JobError(f"{where}: " + "; ".join(problems)) from None


def _describe(problem: dict[str, Any]) -> str:
    location = problem["loc"]
    key = ".".join(str(part) for part in location)
    kind = problem["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_keys(location[:-1]), n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        return f"{key}: unknown key{hint}"
    if kind == "missing":
        return f"{key}: is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    message = message[0].lower() + message[1:]
    given = problem.get("input")
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool | None) else ""
    return f"{key}: {message}{shown}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Job
    for part in location:
        field = model.model_fields.get(str(part))
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return [name for name in model.model_fields if name != "base"]


def read_api_key(endpoint: Endpoint) -> Secret | None:
    """Return the key for the endpoint, ``None`` where none is needed.

    Raises:
        KeyStop: the endpoint is remote and the environment variable is not set.

    """
    value = os.environ.get(endpoint.api_key_env, "").strip()
    if endpoint.embedded:
        return None
    if value:
        return Secret(value)
    host = re.sub(r"^https?://([^/]*).*", r"\1", endpoint.url)
    if host.rsplit(":", 1)[0] in {"127.0.0.1", "localhost", "[::1]"}:
        return None
    raise KeyStop(
        f"no API key for {host}: set the environment variable {endpoint.api_key_env}"
        " (endpoint.api_key_env names it) and run again"
    )
