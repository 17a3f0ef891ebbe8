"""Names of places: partition keys and the folders made of them."""

from __future__ import annotations

import re

from rerank_jobs.errors import JobError

__all__ = ["ALL", "check_partition_key", "check_template", "is_inside"]

ALL = "_all"
"""The partition key of a job that is not partitioned."""

_KEY_SHAPE = re.compile(r"[A-Za-z0-9._=|-]{1,250}")
_TEMPLATE_SHAPE = re.compile(r"[A-Za-z0-9_=|-][A-Za-z0-9._=|/-]*")
_STATE_NAMES = {"format", "imports", "library", "salt"}


def check_partition_key(key: str) -> str:
    """Return ``key`` if it can name a folder safely, else raise ``JobError``."""
    if not _KEY_SHAPE.fullmatch(key) or ".." in key or key.startswith(".") or key == "-":
        raise JobError(
            f"partition key {key!r}: 1 to 250 letters, digits and . _ = | - are allowed, without"
            " '..' and no '.' in front"
        )
    if key.lower() in _STATE_NAMES:
        raise JobError(f"partition key {key!r}: the state root uses this name: choose another")
    return key


def check_template(template: str) -> None:
    """Raise ``ValueError`` unless the template makes a relative, visible folder name of a key."""
    if template.count("{key}") != 1 or ".." in template:
        raise ValueError("template must hold {key} exactly once, as in ds={key}")
    if not _TEMPLATE_SHAPE.fullmatch(template.replace("{key}", "k")):
        raise ValueError(
            "template: beside {key} only letters, digits and . _ = | - / are allowed, and no"
            " '/' or '.' in front"
        )


def is_inside(location: str, folder: str) -> bool:
    """Say whether ``location`` is ``folder`` or lies below it, by name."""
    return location == folder or location.startswith(folder.rstrip("/") + "/")
