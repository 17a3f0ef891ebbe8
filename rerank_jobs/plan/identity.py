"""Names of texts, scorers and plans: digests that are the same in Python and in SQL.

Everything here is pure. A key stands for a text in every file that outlives a run, so that no text
has to be stored; the salt keeps a reader of those files from testing guesses against them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from rerank_jobs.errors import InputError

if TYPE_CHECKING:
    from rerank_jobs.config import Endpoint

__all__ = [
    "KEY_BYTES",
    "compute_key",
    "compute_keys",
    "digest_json",
    "key_sql",
    "plan_id",
    "route",
    "route_sql",
    "scorer_id",
]

KEY_BYTES = 16
"""Length of a key: 128 bits, so a billion texts collide with probability 1.5e-21."""

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def compute_key(salt: bytes, text: str) -> bytes:
    """Return the first 16 bytes of SHA-256(salt + UTF-8 text); the text is not normalised.

    Raises:
        InputError: the text holds a lone surrogate, which has no UTF-8 form.

    """
    return hashlib.sha256(salt + _encode(text)).digest()[:KEY_BYTES]


def compute_keys(
    salt: bytes, texts: Sequence[str] | pa.Array[Any] | pa.ChunkedArray[Any]
) -> list[bytes]:
    """Return ``compute_key`` of each text, in order; an Arrow array must hold no nulls.

    Raises:
        InputError: a text holds a lone surrogate, or the array a null.

    """
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        if texts.null_count:
            raise InputError("a null has no key: rows without text must be rejected first")
        encoded: list[Any] = texts.cast(pa.large_binary()).to_pylist()
    else:
        encoded = [_encode(text) for text in texts]
    sha256 = hashlib.sha256
    return [sha256(salt + data).digest()[:KEY_BYTES] for data in encoded]


def route(query: str, shards: int) -> int:
    """Return the shard (0 .. shards - 1) of a query: all rows of one text fall into one shard.

    The digest is unsalted, so that a copied table is cut the same way everywhere; it is not stored.
    """
    return int.from_bytes(hashlib.sha256(_encode(query)).digest()[:4], "big") * shards >> 32


def key_sql(expression: str, salt: bytes) -> str:
    """Return the DuckDB expression (BLOB) that equals ``compute_key(salt, expression)``.

    ``expression`` is SQL for a VARCHAR, names in it quoted by the caller; null gives null.
    """
    salted = f"from_hex('{salt.hex()}') || encode({expression})"
    return f"unhex(left(sha256({salted}), {2 * KEY_BYTES}))"


def route_sql(expression: str, shards: int) -> str:
    """Return the DuckDB expression (INTEGER) that equals ``route(expression, shards)``."""
    head = f"('0x' || left(sha256({expression}), 8))::UBIGINT"
    return f"(({head} * {int(shards)}::UBIGINT) >> 32)::INTEGER"


def scorer_id(endpoint: Endpoint, embedded_version: str) -> str:
    """Return 32 hex digits that name what decides a score, besides the query and the text.

    Two endpoints share scores only if URL (up to letter case of the host, a default port and one
    trailing slash), dialect, requested model, provider preferences, options and revision are equal.
    The embedded endpoint is named by its version, which no URL can equal: its scores never pass for
    an API's. Preferences and options that say nothing are as if there were none.
    """
    origin = f"embedded/{embedded_version}" if endpoint.embedded else _normalise_url(endpoint.url)
    provider = endpoint.provider.to_body() if endpoint.provider is not None else {}
    named: dict[str, object] = {
        "origin": origin,
        "dialect": endpoint.dialect,
        "model": endpoint.model,
        "provider": provider or None,
        "revision": endpoint.revision,
    }
    if endpoint.options:
        named["options"] = endpoint.options
    return digest_json(named)


def plan_id(parts: Mapping[str, object]) -> str:
    """Return 32 hex digits that name a plan: a digest of everything that decides its bytes."""
    return digest_json(parts)


def digest_json(value: object) -> str:
    """Return the first 32 hex digits of SHA-256 over the canonical JSON of ``value``.

    Order of keys, tuple or list, and 1 or 1.0 make no difference; everything else does.

    Raises:
        TypeError: a value that JSON has no form for, or a key that is not a string.
        ValueError: a number that is not finite.

    """
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _canonical(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number that is not finite cannot be digested")
        # 90 and 90.0 are one number to whoever wrote the job file.
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("only string keys can be digested")
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    raise TypeError(f"a {type(value).__name__} cannot be digested")


def _normalise_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    host = parts.netloc.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ":"))
    return f"{scheme}://{host}{parts.path.removesuffix('/')}"


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        position = error.start
    # Raised outside the handler: the codec's error carries the whole text.
    raise InputError(f"a text holds a lone surrogate at character {position}")
