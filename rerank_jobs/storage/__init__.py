"""The one seam to where files live: immutable objects created once, whole files read and listed."""

from rerank_jobs.storage.local import LocalStore
from rerank_jobs.storage.scratch import scratch_folder
from rerank_jobs.storage.store import (
    Entry,
    Put,
    Store,
    open_store,
    read_json,
    seal_json,
    sha256_of_file,
)

__all__ = [
    "Entry",
    "LocalStore",
    "Put",
    "Store",
    "open_store",
    "read_json",
    "scratch_folder",
    "seal_json",
    "sha256_of_file",
]
