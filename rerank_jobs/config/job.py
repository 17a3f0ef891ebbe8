"""The job file: YAML in, one frozen, fully validated ``Job`` out.

Every mistake is one line that names the key, what is wrong and what to write instead; unknown keys
are refused with the nearest known name. Relative paths are taken from the job file's own folder, so
the same file works from any working directory (a shell, an Airflow worker).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from rerank_jobs.config.endpoint import Endpoint
from rerank_jobs.config.limits import (
    Budget,
    Context,
    Failures,
    Ledger,
    Memory,
    Publish,
    Reuse,
    Runtime,
    Shards,
)
from rerank_jobs.config.part import Part
from rerank_jobs.config.table import Candidates, Enrichment, Input, Output, Partition, State
from rerank_jobs.errors import JobError
from rerank_jobs.places import ALL, is_inside
from rerank_jobs.secret import Secret, read_header_secret, read_password, read_secret

__all__ = ["Job", "read_api_key", "read_secret_headers", "read_store_password"]


class Job(Part):
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
    publish: Publish = Publish()
    ledger: Ledger = Ledger()
    shards: Shards = Shards()
    enrichment: Enrichment = Enrichment()
    memory: Memory = 10**9
    max_runtime: Runtime | None = None
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
            if part != "input" and "://" in (path or ""):
                _check_bucket(part, path or "")
        for root in (self.output_root, self.rejected_root, self.summaries_root):
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
    def summaries_root(self) -> str:
        """The location of the summaries of a search log."""
        return self.output_root + ".summaries"

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
            # Of a tokenizer the contents count, which the plan's identity has by their digest.
            "context": self.context.model_dump(mode="json", exclude={"tokenizer"}),
            "on_failed": self.failures.on_failed,
            "reuse": self.reuse.model_dump(mode="json"),
            "replace": self.output.replace,
        }


def _check_bucket(part: str, path: str) -> None:
    bucket, _, folder = path.partition("://")[2].rstrip("/").partition("/")
    if not bucket:
        raise ValueError(f"{part}.path: {path} names no bucket: write s3://bucket/folder")
    if part == "output" and not folder:
        raise ValueError(
            f"output.path: {path} needs a folder, as in {path.rstrip('/')}/reranked: rejected rows"
            " and the state are kept beside it"
        )


def read_api_key(endpoint: Endpoint) -> Secret | None:
    """Return the key for the endpoint, ``None`` where none is needed.

    A key that the endpoint holds comes before the environment's. A job with secret headers may
    bring its key in one of them.

    Raises:
        KeyStop: see ``read_secret``.

    """
    if endpoint.embedded:
        return None
    needed = not endpoint.secret_headers
    return read_secret(endpoint.api_key_env, endpoint.url, held=endpoint.held_key, needed=needed)


def read_secret_headers(endpoint: Endpoint) -> tuple[tuple[str, Secret], ...]:
    """Return the endpoint's secret headers with their values.

    Raises:
        KeyStop: see ``read_header_secret``.

    """
    return tuple(
        (header, read_header_secret(variable, header))
        for header, variable in endpoint.secret_headers.items()
    )


def read_store_password(endpoint: Endpoint) -> Secret | None:
    """Return the password of the limit's store, ``None`` where the job names none.

    Raises:
        KeyStop: see ``read_password``.

    """
    variable = endpoint.limit_store_password_env
    return None if variable is None else read_password(variable)
