"""Buckets of S3, Google Cloud Storage and Azure: how a location is read and a client is set up.

Keys, region and endpoint come from the environment, or from the machine's role, as the clouds' own
tools take them. A batch job can wait: one call is tried again for minutes, but not for ever.
"""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import MemoryStore, from_url

from rerank_jobs.errors import JobError

__all__ = ["SCHEMES", "open_bucket", "split_location"]

SCHEMES = ("s3", "gs", "az", "memory")
"""``memory://name`` lives as long as the process and is for tests."""

RETRY_SECONDS = 180
"""How long one call is tried again; obstore signs once, so it must be under five minutes."""

MAX_ATTEMPTS = 15
"""How often one call is sent at most, unless ``AWS_MAX_ATTEMPTS`` says so."""


def split_location(location: str) -> tuple[str, str, str]:
    """Return (scheme, bucket, prefix)."""
    scheme, _, rest = location.partition("://")
    if any(mark in rest for mark in "@?#"):
        raise JobError(
            f"{scheme}://…: a location is scheme://bucket/folder only: keys and endpoints come from"
            " the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …)"
        )
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if not bucket:
        raise JobError(f"{location}: names no bucket: write {scheme}://bucket/folder")
    if any(part in {"", ".", ".."} for part in prefix.split("/")) and prefix:
        raise JobError(f"{location}: leave out empty, '.' and '..' parts")
    return scheme, bucket, prefix


@functools.cache
def _open_memory(bucket: str) -> MemoryStore:  # noqa: ARG001 - one store per name
    return MemoryStore()


def open_bucket(scheme: str, bucket: str, seconds: int) -> Any:
    """Return obstore's store of a whole bucket, whose requests may take ``seconds``."""
    if scheme == "memory":
        return _open_memory(bucket)
    options: Any = {
        "timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=10),
        "allow_http": any(
            os.environ.get(variable, "").startswith("http://")
            for variable in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        ),
    }
    retries: Any = {
        "max_retries": _read_attempts() - 1,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=15),
            "base": 2.0,
        },
    }
    try:
        return from_url(f"{scheme}://{bucket}", client_options=options, retry_config=retries)
    except (BaseError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        wanted = " (AZURE_STORAGE_ACCOUNT_NAME names it)" if scheme == "az" else ""
        raise JobError(f"{scheme}://{bucket}: cannot be opened: {reason}{wanted}") from None


def _read_attempts() -> int:
    """Return ``AWS_MAX_ATTEMPTS``, which the SDKs know too, else ours."""
    given = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(1, int(given)) if given.isdecimal() else MAX_ATTEMPTS
