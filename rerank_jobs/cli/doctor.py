"""``doctor``: everything that could stop a job, tried before it costs anything.

It writes two small files into the output and state roots and removes them; it asks the store of a
shared limit; it sends one request that costs nothing (``GET /key``) to a remote endpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

import orjson

from rerank_jobs.config import (
    Endpoint,
    Job,
    Secret,
    check_partition_key,
    read_api_key,
    read_secret_headers,
)
from rerank_jobs.errors import JobError, KeyStop, RerankJobsError
from rerank_jobs.job import open_roots
from rerank_jobs.job_file import load_job
from rerank_jobs.score import (
    DIALECTS,
    KeyReply,
    ScoreSettings,
    ask_account,
    describe_account,
    read_access,
    read_shared_limit,
    try_store,
)
from rerank_jobs.storage import Put, Store, sync_folder
from rerank_jobs.tables.sources import open_input

__all__ = ["Finding", "diagnose", "doctor"]

CLOCK_SECONDS = 30.0
LOW_DISK_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing tried: its name, whether it is well, what was seen or what to do."""

    name: str
    well: bool
    seen: str


def doctor(arguments: argparse.Namespace) -> int:
    """Print every finding.

    Raises:
        JobError: something is not well.

    """
    job = load_job(arguments.job)
    check_partition_key(arguments.partition)
    findings = list(diagnose(job, arguments.partition))
    if arguments.json:
        document = {"findings": [asdict(finding) for finding in findings]}
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.well else 'FAIL'}  {finding.name}: {finding.seen}")
    ill = sum(not finding.well for finding in findings)
    if ill:
        raise JobError(f"{arguments.job}: {ill} of {len(findings)} checks failed")
    return 0


def diagnose(job: Job, partition: str) -> Iterator[Finding]:
    """Yield findings in the order in which a run would meet them."""
    yield _try("input", lambda: _look_at_input(job, partition))
    yield _try("key", lambda: _look_at_key(job))
    roots = open_roots(job)
    for name, store in (("output", roots.output), ("state", roots.state)):
        yield _try(name, lambda store=store: _try_store(store))  # type: ignore[misc]
    yield _look_at_disk(job)
    if job.endpoint.limit_store is not None:
        yield _try("limit store", lambda: _try_limit_store(job))
    yield from _look_at_endpoint(job)


def _try(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, well=True, seen=look())
    except RerankJobsError as error:
        return Finding(name, well=False, seen=str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return Finding(name, well=False, seen=f"{where}{error.strerror or type(error).__name__}")


def _look_at_input(job: Job, partition: str) -> str:
    table = open_input(job, partition)
    return f"{table.rows:,} rows in {len(table.files)} files at {table.location}"


def _look_at_key(job: Job) -> str:
    key = read_api_key(job.endpoint)
    if job.endpoint.embedded:
        return "none needed"
    headers = "".join(f", {header} too" for header, _ in read_secret_headers(job.endpoint))
    if key is not None:
        return f"{job.endpoint.api_key_env} is set{headers}"
    if headers:
        return f"{job.endpoint.api_key_env} is not set{headers.replace(' too', ' is set')}"
    return "none set, none needed on this machine"


def _try_store(store: Store) -> str:
    """Create an object twice: the second must lose; fsync and link are part of creating."""
    folder = f".doctor-{uuid4().hex}"
    name = f"{folder}/object"
    local = "://" not in store.location
    try:
        first = store.put_if_absent(name, b"one")
        second = store.put_if_absent(name, b"two")
        if (first, second, store.read(name)) != (Put.CREATED, Put.OTHER, b"one"):
            raise JobError(
                f"{store.location}: create-if-absent does not hold here: two runs could both win: "
                + ("use another file system" if local else "its server ignores If-None-Match")
            )
        if [entry.name for entry in store.entries(folder)] != [name]:
            raise JobError(f"{store.location}: what was created is not listed: use another place")
        synced = sync_folder(Path(store.location)) if local else True
    finally:
        store.delete(name)
    if not local:
        return f"{store.location} can be written; the server honours create-if-absent"
    if not synced:
        return (
            f"{store.location} can be written; create-if-absent works; its file system cannot sync"
            " a folder: after a loss of power the newest files may be missing"
        )
    return f"{store.location} can be written; create-if-absent and fsync work"


def _look_at_disk(job: Job) -> Finding:
    """Look where planning, merging and copies of remote objects take their space."""
    remote = "://" in job.state_root
    folder = Path(tempfile.gettempdir() if remote else job.state_root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return Finding("disk", free >= LOW_DISK_BYTES, f"{free / 1e9:,.1f} GB free at {folder}")


def _try_limit_store(job: Job) -> str:
    endpoint = job.endpoint
    settings, access = (
        ScoreSettings.from_endpoint(endpoint, None),
        read_access(endpoint, job.resolve),
    )
    limit = read_shared_limit(endpoint, settings, _find_key(endpoint), access, job.resolve)
    if limit is None:
        return "none"
    asyncio.run(try_store(limit))
    return f"{limit.host}:{limit.port} answers; the limit's name there is {limit.name}"


def _look_at_endpoint(job: Job) -> Iterator[Finding]:
    endpoint = job.endpoint
    if endpoint.embedded:
        yield _try("endpoint", _load_embedded)
        return
    try:
        reply = ask_account(
            endpoint, _find_key(endpoint), read_access(endpoint, job.resolve), timeout_seconds=15
        )
    except RerankJobsError as error:
        yield Finding("endpoint", well=False, seen=str(error))
        return
    yield _judge_endpoint(endpoint, reply)
    if reply.server_time is not None:
        yield _compare_clocks(reply.server_time)


def _find_key(endpoint: Endpoint) -> Secret | None:
    """Return the key if there is one that can be sent: what is wrong with it is said elsewhere."""
    try:
        return read_api_key(endpoint)
    except KeyStop:
        return None


def _judge_endpoint(endpoint: Endpoint, reply: KeyReply) -> Finding:
    if reply.status is None:
        check = "check url, network, proxy and ca_file"
        seen = f"{endpoint.url} cannot be reached ({reply.reason}): {check}"
        return Finding("endpoint", well=False, seen=seen)
    asked = DIALECTS[endpoint.dialect].routes
    if asked and reply.status in {401, 403}:
        check = f"check {endpoint.api_key_env}"
        seen = f"{endpoint.url} refused the key ({reply.status}): {check}"
        return Finding("endpoint", well=False, seen=seen)
    seen = f"{endpoint.url} answers ({reply.status}){describe_account(reply.account)}"
    return Finding("endpoint", reply.status < 500, seen)


def _load_embedded() -> str:
    from rerank_jobs.endpoint.scorer import EmbeddedScorer

    EmbeddedScorer.load()
    return "embedded: an offline English stand-in, free"


def _compare_clocks(theirs: float) -> Finding:
    difference = abs(theirs - time.time())
    well = difference <= CLOCK_SECONDS
    seen = f"{difference:.0f} s from the endpoint's" + (
        "" if well else ": set this machine's clock"
    )
    return Finding("clock", well, seen)
