"""A server on loopback that speaks every dialect, each at its own path and as strictly as it can.

Its replies have the shape of the documented examples. A wrong path, key or field is refused.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

KEY = "key-of-the-test"


def score_text(query: str, text: str) -> float:
    """Return the score that the server gives: any function of the pair will do."""
    return hashlib.sha256(f"{query}|{text}".encode()).digest()[0] / 255


@dataclass(frozen=True, slots=True)
class Api:
    """One API: its path, the fields that a body must and may have, and how it replies.

    ``reply`` gets the body and the scores as (index, score), best first.
    """

    path: str
    must: dict[str, type]
    may: frozenset[str]
    reply: Callable[[dict[str, Any], list[tuple[int, float]]], Any]
    texts: str = "documents"
    most: int = 1000


def _results(scores: list[tuple[int, float]], name: str = "relevance_score") -> list[Any]:
    return [{"index": index, name: score} for index, score in scores]


def _echoed(body: dict[str, Any], scores: list[tuple[int, float]]) -> list[Any]:
    documents = body["documents"]
    return [
        {"index": index, "relevance_score": score, "document": {"text": documents[index]}}
        for index, score in scores
    ]


PLAIN: dict[str, type] = {"model": str, "query": str, "documents": list}
TOP: dict[str, type] = {"top_n": int, "return_documents": bool}

APIS = {
    "openrouter": Api(
        "api/v1/rerank",
        PLAIN,
        frozenset({"provider", "user", "session_id", "trace"}),
        lambda body, scores: {
            "id": "gen-rerank-1",
            "model": body["model"],
            "provider": "Cohere",
            "results": _echoed(body, scores),
            "usage": {"search_units": 1, "total_tokens": 150, "cost": 0.001},
        },
    ),
    "cohere": Api(
        "v2/rerank",
        {**PLAIN, "top_n": int},
        frozenset({"max_tokens_per_doc", "priority"}),
        lambda _, scores: {
            "id": "1",
            "results": _results(scores),
            "meta": {
                "api_version": {"version": "2", "is_experimental": False},
                "billed_units": {"search_units": 1.0},
            },
        },
    ),
    "jina": Api(
        "v1/rerank",
        {**PLAIN, **TOP},
        frozenset(),
        lambda body, scores: {
            "model": body["model"],
            "results": _results(scores),
            "usage": {"total_tokens": 38},
        },
    ),
    "voyage": Api(
        "v1/rerank",
        {**PLAIN, "top_k": int, "return_documents": bool},
        frozenset({"truncation"}),
        lambda body, scores: {
            "object": "list",
            "data": _results(scores),
            "model": body["model"],
            "usage": {"total_tokens": 26},
        },
    ),
    "vllm": Api(
        "v1/rerank",
        {**PLAIN, "top_n": int},
        frozenset({"truncate_prompt_tokens"}),
        lambda body, scores: {
            "id": "rerank-1",
            "model": body["model"],
            "usage": {"prompt_tokens": 56, "total_tokens": 56},
            "results": _echoed(body, scores),
        },
    ),
    "tei": Api(
        "rerank",
        {"query": str, "texts": list, "raw_scores": bool, "return_text": bool},
        frozenset({"truncate", "truncation_direction"}),
        lambda _, scores: _results(scores, "score"),
        texts="texts",
        most=32,
    ),
    "infinity": Api(
        "rerank",
        {**PLAIN, **TOP, "raw_scores": bool},
        frozenset(),
        lambda body, scores: {
            "object": "rerank",
            "results": [{**result, "document": None} for result in _results(scores)],
            "model": body["model"],
            "usage": {"prompt_tokens": 12, "total_tokens": 12},
            "id": "infinity-1",
            "created": 1,
        },
        most=2048,
    ),
    "nim": Api(
        "v1/ranking",
        {"model": str, "query": dict, "passages": list},
        frozenset({"truncate"}),
        lambda _, scores: {"rankings": _results(scores, "logit")},
        texts="passages",
        most=512,
    ),
    "bedrock": Api(
        "model/cohere.rerank-v3-5:0/invoke",
        {"api_version": int, "query": str, "documents": list, "top_n": int},
        frozenset(),
        lambda _, scores: {"results": _results(scores)},
    ),
}


last_bodies: dict[str, dict[str, Any]] = {}
"""The body that each API got last."""


async def answer(request: Request) -> JSONResponse:
    """Answer one call; the first part of the path names the API."""
    name, path = request.path_params["api"], request.path_params["path"]
    api, body = APIS[name], await request.json()
    last_bodies[name] = body
    if path != api.path or (":" in path and b"%3A" not in request.scope["raw_path"]):
        return JSONResponse({"message": "not found"}, 404)
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return JSONResponse({"message": "unauthorized"}, 401)
    fields = set(body) - set(api.must) - api.may
    wrong = {key for key, kind in api.must.items() if not isinstance(body.get(key), kind)}
    if fields or wrong:
        return JSONResponse({"message": f"unknown field: parameter {fields or wrong}"}, 422)
    texts = [text["text"] if isinstance(text, dict) else text for text in body[api.texts]]
    if not 0 < len(texts) <= api.most:
        return JSONResponse({"message": "too many documents"}, 400)
    query = body["query"]["text"] if isinstance(body["query"], dict) else body["query"]
    scores = [(index, score_text(query, text)) for index, text in enumerate(texts)]
    return JSONResponse(api.reply(body, sorted(scores, key=lambda pair: -pair[1])))


@contextmanager
def run_server() -> Iterator[str]:
    """Serve on a free port of loopback in a thread; yield ``http://host:port``."""
    app = Starlette(routes=[Route("/{api}/{path:path}", answer, methods=["POST"])])
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
