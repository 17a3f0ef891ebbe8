"""The one seam to where files live: immutable objects created once, whole files read and listed."""

from rerank_jobs.storage.local import LocalStore, sync_folder
from rerank_jobs.storage.objects import ObjectStore
from rerank_jobs.storage.scratch import find_stale_scratch, scratch_folder
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
    "ObjectStore",
    "Put",
    "Store",
    "find_stale_scratch",
    "open_store",
    "read_json",
    "scratch_folder",
    "seal_json",
    "sha256_of_file",
    "sync_folder",
]
