"""The frozen plan: created once per plan_id, read by every retry, recomputed by none.

It fixes the work files by digest, the reuse that was decided and each shard's allowance, so an
Airflow retry on another machine does exactly what the first try would have done.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from rerank_jobs import __version__
from rerank_jobs.config import Job
from rerank_jobs.contracts import contract_versions
from rerank_jobs.plan.build import KINDS, Draft
from rerank_jobs.plan.identity import digest_json, plan_id
from rerank_jobs.plan.price import allow
from rerank_jobs.plan.promise import Promise
from rerank_jobs.storage import Put, Store, read_json, seal_json, sha256_of_file
from rerank_jobs.tables.rendering import RENDERING_VERSION
from rerank_jobs.tables.sink import plain_schema
from rerank_jobs.tables.sources import InputTable

__all__ = [
    "Plan",
    "ShardPlan",
    "WorkFile",
    "freeze",
    "identify",
    "plan_name",
    "read_plan",
    "run_folder",
]


@dataclass(frozen=True, slots=True)
class WorkFile:
    """A work file in the state root: name, SHA-256, bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One shard: its work files by kind, what it will send, and the most that it may spend.

    ``tokens`` (of query and passage, over all passages) are 0 in plans of earlier versions.
    """

    number: int
    files: Mapping[str, WorkFile]
    passages: int
    requests: int
    search_units: int
    allowance_usd: float
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as frozen; ``inputs`` are (name, bytes, SHA-256) of the files that it read.

    ``whole`` is not set for a sample, nor for plans of earlier versions, which do not say.
    ``library`` names the files of the score library that were looked through.
    """

    plan_id: str
    partition: str
    scorer_id: str
    created_at: str
    promise: Promise
    shards: tuple[ShardPlan, ...]
    rejected: WorkFile | None
    inputs: tuple[tuple[str, int, str], ...]
    input_schema: pa.Schema
    row_group: int
    whole: bool = False
    library: tuple[str, ...] = ()


def plan_name(partition: str, identity: str) -> str:
    """Return the name of a plan's file in the state root."""
    return f"{partition}/plan/{identity}.json"


def run_folder(partition: str, identity: str, shard: int) -> str:
    """Return the folder of a shard's run in the state root."""
    return f"{partition}/run/{identity}/{shard:05d}"


def identify(
    job: Job,
    table: InputTable,
    partition: str,
    scorer: str,
    shards: int,
    limit_queries: int | None,
    tokenizer_sha256: str | None = None,
) -> str:
    """Return the plan_id: a digest of all that decides the plan, without clock or attempt."""
    return plan_id(
        {
            "inputs": [[file.name, file.size, file.sha256] for file in table.files],
            "partition": partition,
            "versions": _versions(),
            "scorer": scorer,
            "policy": job.policy(),
            "tokenizer": tokenizer_sha256,
            "listwise": job.endpoint.listwise,
            "shards": shards,
            "sample": limit_queries,
        }
    )


PLANNING_VERSION = 2
"""Version of token estimates, windows and packing: a new one gives new plans."""


def _versions() -> dict[str, int]:
    """Versions of what decides a plan's bytes; those of the ledger and of manifests do not."""
    contracts = contract_versions()
    named = {name: contracts[name] for name in ("candidates", "search_log", "scored", "rejected")}
    return {**named, "rendering": RENDERING_VERSION, "planning": PLANNING_VERSION}


def freeze(
    store: Store,
    job: Job,
    table: InputTable,
    partition: str,
    scorer: str,
    identity: str,
    draft: Draft,
    limit_queries: int | None,
    library: tuple[str, ...],
) -> Plan:
    """Put the work files, create the plan file; return the plan that another process put first."""
    shards = [
        {
            "number": number,
            "files": {
                kind: _put_work(store, draft, partition, identity, number, kind) for kind in KINDS
            },
            "passages": item.passages,
            "requests": item.requests,
            "search_units": item.units,
            "allowance_usd": allow(item, job.endpoint),
            "tokens": item.tokens,
        }
        for number, item in enumerate(draft.prices)
    ]
    rejected = None
    if draft.rejected_rows:
        name = f"{partition}/run/{identity}/rejected-{{sha8}}.parquet"
        rejected = _put_file(store, draft.rejected_file, name)
    document = {
        "contract": "plan",
        "version": contract_versions()["plan"],
        "written_by": f"rerank-jobs {__version__}",
        "plan_id": identity,
        "partition": partition,
        "scorer_id": scorer,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "policy": job.policy(),
        "policy_digest": digest_json(job.policy()),
        "inputs": [[file.name, file.size, file.sha256] for file in table.files],
        "input_schema": base64.b64encode(plain_schema(table.schema).serialize()).decode(),
        "row_group": draft.row_group,
        "promise": draft.promise.to_json(),
        "shards": shards,
        "rejected": rejected,
        "sample": limit_queries,
        "library": list(library),
    }
    name = plan_name(partition, identity)
    if store.put_if_absent(name, seal_json(document)) is Put.OTHER:
        return read_plan(store, partition, identity)
    return _decode(document)


def read_plan(store: Store, partition: str, identity: str) -> Plan:
    """Read a frozen plan; raises ``FileNotFoundError`` or ``StateError``."""
    return _decode(read_json(store, plan_name(partition, identity)))


def _put_work(
    store: Store, draft: Draft, partition: str, identity: str, shard: int, kind: str
) -> dict[str, Any]:
    name = f"{run_folder(partition, identity, shard)}/work.{kind}-{{sha8}}.arrow"
    return _put_file(store, draft.work_file(kind, shard), name)


def _put_file(store: Store, path: Any, name: str) -> dict[str, Any]:
    digest = sha256_of_file(path)
    file = WorkFile(name.format(sha8=digest[:8]), digest, path.stat().st_size)
    if store.put_file_if_absent(file.name, path) is Put.OTHER:
        store.delete(file.name)  # its name is its digest: what stands there was damaged
        store.put_file_if_absent(file.name, path)
    return asdict(file)


def _decode(document: dict[str, Any]) -> Plan:
    shards = tuple(
        ShardPlan(
            **{key: value for key, value in shard.items() if key != "files"},
            files={kind: WorkFile(**file) for kind, file in shard["files"].items()},
        )
        for shard in document["shards"]
    )
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(document["input_schema"])))
    return Plan(
        plan_id=document["plan_id"],
        partition=document["partition"],
        scorer_id=document["scorer_id"],
        created_at=document["created_at"],
        promise=Promise(**document["promise"]),
        shards=shards,
        rejected=WorkFile(**document["rejected"]) if document["rejected"] else None,
        inputs=tuple((name, size, digest) for name, size, digest in document["inputs"]),
        input_schema=schema,
        row_group=document["row_group"],
        whole=document.get("sample", 0) is None,
        library=tuple(document.get("library", ())),
    )
