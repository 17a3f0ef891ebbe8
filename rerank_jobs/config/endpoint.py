"""The endpoint of a job: which model scores, at which pace and price, and how it is reached."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from rerank_jobs.config.part import Count, Dollars, Part
from rerank_jobs.errors import JobError
from rerank_jobs.secret import HeldKey

__all__ = [
    "API_SEARCH_USD",
    "EMBEDDED",
    "App",
    "DialectName",
    "Endpoint",
    "MaxPrice",
    "ProviderPreferences",
]

EMBEDDED = "embedded"
"""The endpoint URL that stands for the endpoint inside this process."""

API_SEARCH_USD = 0.001
"""Price of one search unit of cohere/rerank-v3.5 on OpenRouter."""

ENVIRONMENT = "environment"
"""The proxy that stands for HTTPS_PROXY, HTTP_PROXY and NO_PROXY."""

DialectName = Literal[
    "openrouter", "cohere", "jina", "voyage", "vllm", "tei", "infinity", "nim", "bedrock"
]

_URL_SHAPE = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?")
_VARIABLE_SHAPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_STORE_SHAPE = re.compile(
    r"rediss?://([^\s/?#@:]+@)?([^\s/?#@:\[\]]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?(/\d{0,3})?"
)
_HEADER_NAME_SHAPE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE_SHAPE = re.compile(r"[\x20-\x7e]{0,4000}")
_OUR_HEADERS = {"authorization", "content-type", "content-length", "host", "accept-encoding"}
_MAX_CATEGORIES = 2
_MAX_CATEGORY = 30

Slugs = tuple[Annotated[str, Field(min_length=1, max_length=200)], ...]


class MaxPrice(Part):
    """The dearest provider that a request may be routed to (OpenRouter; dollars as text)."""

    prompt: str | None = None
    completion: str | None = None
    image: str | None = None
    audio: str | None = None
    request: str | None = None


class ProviderPreferences(Part):
    """OpenRouter's routing preferences, sent as they stand; names and meaning are its own."""

    order: Slugs | None = None
    only: Slugs | None = None
    ignore: Slugs | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    enforce_distillable_text: bool | None = None
    quantizations: Slugs | None = None
    sort: Literal["price", "throughput", "latency", "exacto"] | dict[str, Any] | None = None
    max_price: MaxPrice | None = None
    preferred_max_latency: float | dict[str, float] | None = None
    preferred_min_throughput: float | dict[str, float] | None = None
    options: dict[str, Any] | None = None

    def to_body(self) -> dict[str, Any]:
        """Return what goes into a request body: only what the job file names."""
        return self.model_dump(mode="json", exclude_none=True)


class App(Part):
    """Who asks, for OpenRouter's app attribution: HTTP-Referer, X-Title and categories."""

    url: Annotated[str, Field(pattern=r"^https?://[\x21-\x7e]+$")] | None = None
    title: Annotated[str, Field(pattern=r"^[\x20-\x7e]{1,200}$")] | None = None
    categories: tuple[str, ...] = ()

    @field_validator("categories")
    @classmethod
    def _check_categories(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > _MAX_CATEGORIES or any(
            not re.fullmatch(rf"[a-z0-9-]{{1,{_MAX_CATEGORY}}}", category) for category in value
        ):
            raise ValueError(
                f"categories: at most {_MAX_CATEGORIES}, each of at most {_MAX_CATEGORY} small"
                " letters, digits and -"
            )
        return value


class Endpoint(Part):
    """Which endpoint scores, at which pace and price.

    Secrets never stand here: ``api_key_env`` and ``secret_headers`` name environment variables.
    """

    url: str = EMBEDDED
    dialect: DialectName = "openrouter"
    model: str = "cohere/rerank-v3.5"
    revision: str = ""
    api_key_env: str = "OPENROUTER_API_KEY"
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    limit_window_seconds: Annotated[float, Field(ge=1, le=3600)] = 60
    limit_store: str | None = None
    limit_store_password_env: str | None = None
    limit_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=1024)] = 32
    timeout_seconds: Annotated[float, Field(ge=1, le=600)] = 90
    patience_seconds: Annotated[float, Field(ge=0, le=86_400)] = 600
    usd_per_search: Dollars | None = None
    usd_per_million_tokens: Dollars | None = None
    listwise: bool | None = None
    provider: ProviderPreferences | None = None
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    session_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    trace: dict[str, Any] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    app: App = App()
    headers: dict[str, str] = Field(default_factory=dict)
    secret_headers: dict[str, str] = Field(default_factory=dict)
    proxy: str | None = None
    ca_file: str | None = None
    # Beside the fields: no dump, schema or repr shows it, and a job file cannot name it.
    _held_key: HeldKey | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.url != EMBEDDED and not _URL_SHAPE.fullmatch(self.url):
            raise ValueError("url must be 'embedded' or http(s)://host/path, without credentials")
        if not _VARIABLE_SHAPE.fullmatch(self.api_key_env):
            # The value is not repeated: it may be the key itself.
            raise ValueError(
                "api_key_env must be the name of an environment variable (letters, digits, _)"
                " that holds the key, never the key itself"
            )
        return self

    @model_validator(mode="after")
    def _check_headers(self) -> Self:
        names = [*self.headers, *self.secret_headers]
        if len({name.lower() for name in names}) < len(names):
            raise ValueError("headers and secret_headers name a header twice")
        for name in names:
            if not _HEADER_NAME_SHAPE.fullmatch(name) or name.lower() in _OUR_HEADERS:
                raise ValueError(f"headers: {name!r} is no name of a header that may be set here")
        if not all(_HEADER_VALUE_SHAPE.fullmatch(value) for value in self.headers.values()):
            raise ValueError("headers: a value must be of printable ASCII characters on one line")
        for name, variable in self.secret_headers.items():
            if not _VARIABLE_SHAPE.fullmatch(variable):
                raise ValueError(
                    f"secret_headers.{name} must be the name of an environment variable that holds"
                    " the value, never the value itself"
                )
        return self

    @model_validator(mode="after")
    def _check_proxy(self) -> Self:
        if self.proxy not in {None, ENVIRONMENT} and not _URL_SHAPE.fullmatch(self.proxy or ""):
            raise ValueError(
                "proxy must be 'environment' (HTTPS_PROXY and its like, which may hold credentials)"
                " or http(s)://host:port without credentials"
            )
        return self

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        for pace, name in ((self.pace, "requests"), (self.token_pace, "tokens")):
            if pace is not None and pace * self.limit_window_seconds < 60:
                raise ValueError(
                    f"limit_window_seconds: not one of {pace} {name} a minute fits into a window of"
                    f" {self.limit_window_seconds:g} s"
                )
        return self

    @model_validator(mode="after")
    def _check_limit_store(self) -> Self:
        # No value is repeated: either may hold a password.
        if self.limit_store is None:
            if self.limit_name is not None or self.limit_store_password_env is not None:
                raise ValueError("limit_name and limit_store_password_env need a limit_store")
            return self
        if not _STORE_SHAPE.fullmatch(self.limit_store):
            raise ValueError(
                "limit_store must be redis://host:port/database or rediss://…, without a password:"
                " limit_store_password_env names the variable that holds it"
            )
        if not _VARIABLE_SHAPE.fullmatch(self.limit_store_password_env or "NONE"):
            raise ValueError(
                "limit_store_password_env must be the name of an environment variable that holds"
                " the password, never the password itself"
            )
        if self.pace is None and self.token_pace is None:
            raise ValueError("limit_store needs requests_per_minute or tokens_per_minute to share")
        return self

    def hold_key(self, held: HeldKey) -> Self:
        """Return this endpoint with a key that stands for the one in ``api_key_env``."""
        copied = self.model_copy()
        copied._held_key = held  # noqa: SLF001 - its own
        return copied

    def take_part(self, parts: int) -> Self:
        """Return this endpoint for one of ``parts`` processes that together keep its limits.

        Each has an equal part of them; a limit in a store is kept by all of them as it is.

        Raises:
            JobError: a limit is too small to be divided so.

        """
        if parts == 1 or self.limit_store is not None:
            return self
        copied = self.model_copy(update={"share": self.share / parts})
        for part, whole in ((copied.pace, self.pace), (copied.token_pace, self.token_pace)):
            if part is None or whole is None:
                continue
            if part * parts > whole or part * self.limit_window_seconds < 60:
                raise JobError(
                    f"endpoint: a limit of {whole:,} a minute cannot be divided among {parts}"
                    " processes: run fewer side by side, or share it by endpoint.limit_store"
                )
        return copied

    @property
    def held_key(self) -> HeldKey | None:
        """The key that does not come from the environment, if there is one."""
        return self._held_key

    @property
    def key_place(self) -> str:
        """Where the key stands, as messages name it."""
        return self.api_key_env if self._held_key is None else self._held_key.place

    @property
    def embedded(self) -> bool:
        """Whether the endpoint runs inside this process, for nothing."""
        return self.url == EMBEDDED

    @property
    def price_usd(self) -> float:
        """Dollars that one search unit is planned with; 0 where tokens are priced."""
        if self.usd_per_search is not None:
            return self.usd_per_search
        free = self.embedded or self.usd_per_million_tokens is not None
        return 0.0 if free else API_SEARCH_USD

    @property
    def token_price_usd(self) -> float:
        """Dollars that one token is planned with, on top of the search units."""
        return (self.usd_per_million_tokens or 0.0) / 1e6

    @property
    def pace(self) -> int | None:
        """Requests a minute of one process, ``None`` for unpaced: the embedded one unless asked."""
        if self.requests_per_minute is None:
            if self.embedded:
                return None
            return self._part_of(1000)
        return self._part_of(self.requests_per_minute)

    @property
    def token_pace(self) -> int | None:
        """Tokens a minute of one process, ``None`` for no such limit."""
        return None if self.tokens_per_minute is None else self._part_of(self.tokens_per_minute)

    def _part_of(self, limit: int) -> int:
        return max(1, int(limit * self.share + 1e-9))
