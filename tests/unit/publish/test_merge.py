"""Merging: order, statuses and windows of documents, whatever the endpoint answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rerank_jobs import job as jobs
from rerank_jobs.config import Job
from rerank_jobs.errors import GateFailed
from rerank_jobs.job import run_partition
from tests.builders import make_job, read_output, write_rows

Scorer = Callable[[str, str], float]


def serve_scores(
    score: Scorer, monkeypatch: pytest.MonkeyPatch, longest: int = 10**9
) -> list[dict[str, Any]]:
    """Answer every request in process with ``score``; return the list of bodies that were sent.

    A document that begins with POISON, or is longer than ``longest``, makes its request a 400.
    """
    bodies: list[dict[str, Any]] = []

    async def rerank(request: Request) -> Response:
        body = json.loads(await request.body())
        bodies.append(body)
        texts = body["documents"]
        if any(text.startswith("POISON") or len(text) > longest for text in texts):
            error = {"code": 400, "message": "document too long", "metadata": {}}
            error["metadata"] = {"error_type": "string_too_long"}
            return JSONResponse({"error": error}, status_code=400)
        results = [
            {"index": i, "relevance_score": score(body["query"], text), "document": {"text": text}}
            for i, text in enumerate(texts)
        ]
        usage = {"search_units": 1, "cost": 0.0}
        return JSONResponse(
            {"id": "gen-1", "model": "test/model", "results": results, "usage": usage}
        )

    app = Starlette(routes=[Route("/api/v1/rerank", rerank, methods=["POST"])])
    monkeypatch.setattr(jobs, "open_transport", lambda _job: httpx.ASGITransport(app))
    return bodies


def make_rows(texts: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Return rows of some queries, each with its documents in first-stage order."""
    return [
        {
            "query_id": query,
            "query": f"text of {query}",
            "document_id": f"{query}-{number}",
            "document": text,
            "first_stage_score": -float(number),
        }
        for query, documents in texts.items()
        for number, text in enumerate(documents)
    ]


def run(folder: Path, texts: dict[str, list[str]], **parts: Any) -> list[dict[str, Any]]:
    """Run a job over some queries; return the published rows."""
    write_rows(folder / "candidates.parquet", make_rows(texts))
    job = make_job(folder, **parts)
    run_partition(job)
    return read_output(job).to_pylist()


def order_of(rows: list[dict[str, Any]], query: str) -> list[str]:
    """Return a query's document ids by rank."""
    mine = sorted(
        (row for row in rows if row["query_id"] == query), key=lambda row: row["rerank_rank"]
    )
    assert [row["rerank_rank"] for row in mine] == list(range(1, len(mine) + 1))
    return [row["document_id"] for row in mine]


def test_equal_scores_keep_the_first_stage_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents of one score stand as the first stage had them, behind better ones."""
    serve_scores(lambda _query, text: 0.9 if text == "best" else 0.5, monkeypatch)
    rows = run(tmp_path, {"q": ["a", "b", "best", "c"]})
    assert order_of(rows, "q") == ["q-2", "q-0", "q-1", "q-3"]
    deltas = {row["document_id"]: row["rerank_delta"] for row in rows}
    assert deltas == {"q-2": 2, "q-0": -1, "q-1": -1, "q-3": 0}


FAILING: dict[str, Any] = {
    "failures": {"max_failed_fraction": 1.0},
}


def test_refused_documents_go_behind_the_scored_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Demoted documents keep their first-stage order behind scored ones, with an error code."""
    serve_scores(lambda _query, text: len(text) / 10, monkeypatch)
    texts = {"q": ["POISON", "b", "POISONED", "bb"], "fine": ["a", "bb"]}
    rows = run(tmp_path, texts, **FAILING)
    assert order_of(rows, "fine") == ["fine-1", "fine-0"]
    assert order_of(rows, "q") == ["q-3", "q-1", "q-0", "q-2"]
    failed = [row for row in rows if row["rerank_status"] == "failed"]
    assert [row["document_id"] for row in failed] == ["q-0", "q-2"]
    assert all(row["rerank_score"] is None for row in failed)
    assert {row["rerank_error"] for row in failed} == {"string_too_long"}


def test_a_document_that_is_cut_further_counts_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused as too long, it is scored by its best piece and says as how many it was sent."""
    long = "word " * 60 + "best"
    serve_scores(lambda _query, text: 0.9 if "best" in text else 0.1, monkeypatch, longest=200)
    rows = run(tmp_path, {"q": ["a", long]})
    cut = next(row for row in rows if row["document"] == long)
    assert (cut["rerank_status"], cut["rerank_rank"], cut["rerank_score"]) == ("scored", 1, 0.9)
    assert cut["rerank_windows"] >= 2
    assert [row["rerank_windows"] for row in rows if row is not cut] == [1]


def test_too_many_failures_publish_nothing_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the allowed fraction the gate closes; --retry-failed sends only what failed."""
    texts = {"q": ["POISON", "POISONED"], "fine": ["a", "bb"]}
    bodies = serve_scores(lambda _query, text: len(text) / 10, monkeypatch)
    with pytest.raises(GateFailed, match="2 of 4 documents failed"):
        run(tmp_path, texts)
    job = make_job(tmp_path)
    assert not Path(job.output_root).exists()
    sent = len(bodies)
    with pytest.raises(GateFailed):
        run_partition(job)
    assert len(bodies) == sent
    again = serve_everything(monkeypatch)
    run_partition(job, retry_failed=True)
    assert [body["query"] for body in again] == ["text of q"]
    assert {row["rerank_status"] for row in read_output(job).to_pylist()} == {"scored"}


def serve_everything(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Answer every request, poison or not."""
    bodies: list[dict[str, Any]] = []

    async def rerank(request: Request) -> Response:
        body = json.loads(await request.body())
        bodies.append(body)
        results = [
            {"index": i, "relevance_score": 0.5, "document": {"text": ""}}
            for i in range(len(body["documents"]))
        ]
        return JSONResponse({"model": "test/model", "results": results})

    app = Starlette(routes=[Route("/api/v1/rerank", rerank, methods=["POST"])])
    monkeypatch.setattr(jobs, "open_transport", lambda _job: httpx.ASGITransport(app))
    return bodies


def test_on_failed_fail_never_publishes_a_failed_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under on_failed: fail one refused document closes the gate."""
    serve_scores(lambda _query, _text: 0.5, monkeypatch)
    with pytest.raises(GateFailed, match="on_failed: fail"):
        run(
            tmp_path,
            {"q": ["POISON", "POISONED"], "fine": ["a", "bb"]},
            failures={"on_failed": "fail", "max_failed_fraction": 1.0},
        )


LONG = " ".join(f"word{number}" for number in range(400))
CONTEXT = {"tokens": 256, "overlap_tokens": 16}


def test_a_long_document_has_the_score_of_its_best_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document over the context is sent in windows; the best one gives score and number."""
    bodies = serve_scores(
        lambda _query, text: 0.9 if "word399" in text else 0.2 if "word" in text else 0.5,
        monkeypatch,
    )
    rows = run(tmp_path, {"q": ["short text", LONG]}, context=CONTEXT)
    found = {row["document_id"]: row for row in rows}
    windows = [text for text in bodies[0]["documents"] if "word" in text]
    assert found["q-1"]["rerank_windows"] == len(windows) >= 3
    assert found["q-1"]["rerank_best_window"] == len(windows) - 1
    assert found["q-1"]["rerank_score"] == 0.9
    assert found["q-0"]["rerank_best_window"] is None
    assert order_of(rows, "q") == ["q-1", "q-0"]


def test_a_truncated_document_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under truncate the beginning alone is sent and the row says so."""
    bodies = serve_scores(lambda _query, _text: 0.5, monkeypatch)
    rows = run(tmp_path, {"q": ["short", LONG]}, context={**CONTEXT, "long_documents": "truncate"})
    marked = {row["document_id"]: row["rerank_truncated"] for row in rows}
    assert marked == {"q-0": False, "q-1": True}
    (sent,) = [text for text in bodies[0]["documents"] if "word" in text]
    assert LONG.startswith(sent)


def test_documents_over_the_context_can_be_refused_unsent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under long_documents: fail such a document is not sent and fails as over_context."""
    bodies = serve_scores(lambda _query, _text: 0.5, monkeypatch)
    rows = run(
        tmp_path,
        {"q": ["short", "other", LONG]},
        context={**CONTEXT, "long_documents": "fail"},
        **FAILING,
    )
    assert sorted(bodies[0]["documents"]) == ["other", "short"]
    errors = {row["document_id"]: row["rerank_error"] for row in rows}
    assert errors == {"q-0": None, "q-1": None, "q-2": "over_context"}


def test_equal_texts_of_a_query_are_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two documents of one text, and one query text under two ids, cost one passage each."""
    bodies = serve_scores(lambda _query, text: len(text) / 10, monkeypatch)
    rows = make_rows({"q1": ["same", "same", "other"], "q2": ["same", "third"]})
    for row in rows:
        row["query"] = "one query"
    write_rows(tmp_path / "candidates.parquet", rows)
    job: Job = make_job(tmp_path)
    run_partition(job)
    sent = sorted(text for body in bodies for text in body["documents"])
    assert sent == ["other", "same", "third"]
    out = {row["document_id"]: row["rerank_score"] for row in read_output(job).to_pylist()}
    assert out["q1-0"] == out["q1-1"] == out["q2-0"] == 0.4
