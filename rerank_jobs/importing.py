"""Importing scores that were paid elsewhere: checked to the last row, then sealed as segments.

An import is a run without requests or dollars, under ``imports/run/<digest>``: its segments come
into the library as those of any run, and can be compacted again from there. It is named by the
file's bytes and how they are read, so that importing one file twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from rerank_jobs.config import Job
from rerank_jobs.embedded import identify_scorer, name_model
from rerank_jobs.errors import JobError
from rerank_jobs.ledger.compaction import compact
from rerank_jobs.ledger.segments import encode_rows, make_free_rows, segment_name
from rerank_jobs.plan.counting import ESTIMATE
from rerank_jobs.plan.identity import compute_keys, digest_json
from rerank_jobs.plan.tokenizer import make_counter, read_tokenizer
from rerank_jobs.runs import IMPORTS, record_name
from rerank_jobs.score import ranks_listwise
from rerank_jobs.score_files import COLUMNS, ScoreFile, read_scores
from rerank_jobs.storage import Store, open_store, seal_json, sha256_of_file
from rerank_jobs.upkeep import prepare_state

__all__ = ["Imported", "import_scores"]


@dataclass(frozen=True, slots=True)
class Imported:
    """How many scores a file holds, and how many of them are new in the ledger by this import."""

    scores: int
    added: int


def import_scores(
    job: Job,
    file: Path,
    *,
    columns: Mapping[str, str] | None = None,
    any_model: bool = False,
    now: datetime,
) -> Imported:
    """Bring scores of another ledger under the job's scorer; nothing is imported if a row is wrong.

    A row is a passage as it would be sent. ``columns`` maps names of ``COLUMNS`` to those of the
    file; ``now`` (UTC) is what no date may lie behind.

    Raises:
        InputError: names file, row (from 0) and column of the first wrong value.
        JobError: the job's model is listwise, or the file is neither .csv nor .parquet.

    """
    if ranks_listwise(job.endpoint):
        raise JobError(f"job {job.name}: a listwise model reuses no score, so none can be imported")
    named = {name: (columns or {}).get(name, name) for name in COLUMNS}
    tokenizer = read_tokenizer(job)
    counter = make_counter(tokenizer) if tokenizer else ESTIMATE
    model = None if any_model else name_model(job)
    source = ScoreFile(file, named, model, now, job.context, counter)
    scores = sum(table.num_rows for table in read_scores(source))
    store, scorer = open_store(job.state_root), identify_scorer(job)
    salt = prepare_state(store)
    digest = sha256_of_file(file)
    identity = digest_json({"file": digest, "columns": named, "scorer": scorer})
    for number, table in enumerate(read_scores(source)):
        name = segment_name(f"{IMPORTS}/run/{identity}/{number:05d}", 0, 0)
        store.put_if_absent(name, encode_rows(_make_rows(table, salt, identity)))
    _put_record(store, identity, scorer, digest, scores)
    added = compact(store, scorer, f"{IMPORTS}/run/{identity}", identity)
    return Imported(scores, added)


def _put_record(store: Store, identity: str, scorer: str, digest: str, scores: int) -> None:
    """Say whose scores they are, as a plan does for its run."""
    document = {
        "plan_id": identity,
        "scorer_id": scorer,
        "source_sha256": digest,
        "scores": scores,
    }
    store.put_if_absent(record_name(identity), seal_json(document))


def _make_rows(table: pa.Table, salt: bytes, identity: str) -> pa.RecordBatch:
    """Return rows of the contract ``ledger`` that cost nothing, the newest first.

    Of a pair that stands twice in a block the newest score is then the first.
    """
    table = table.sort_by([("date", "descending"), ("score", "descending")])
    keys = [
        pa.array(compute_keys(salt, table.column(name)), pa.binary(16))
        for name in ("query", "document")
    ]
    named = {"score": "score", "model": "model", "provider": "provider", "received_at": "date"}
    columns = {name: table.column(source) for name, source in named.items()}
    pairs = {
        "query_key": keys[0],
        "passage_key": keys[1],
        **columns,
        "parts": table.column("parts"),
    }
    return make_free_rows(pa.table(pairs), identity)
