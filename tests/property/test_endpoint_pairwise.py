"""Splitting, reordering and merging documents over requests never changes a score."""

from __future__ import annotations

import asyncio
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_jobs.endpoint.app import create_app

if TYPE_CHECKING:
    from starlette.applications import Starlette

_WORDS = st.sampled_from(
    [
        "usb",
        "speaker",
        "the",
        "of",
        "search",
        "engine",
        "über",
        "café",
        "fooBar",
        "snake_case",
        "搜索",
        "ราคา",
        "поиск",
        "3.5",
        "😀",
    ]
)
_TEXTS = st.one_of(
    st.lists(_WORDS, min_size=1, max_size=30).map(" ".join),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(str.strip),
    st.lists(_WORDS, min_size=600, max_size=700).map(" ".join),
)


@cache
def _app() -> Starlette:
    return create_app()


async def _score(client: httpx.AsyncClient, query: str, documents: list[str]) -> list[float]:
    body = {"model": "m", "query": query, "documents": documents}
    reply = await client.post("/api/v1/rerank", json=body)
    assert reply.status_code == 200
    scores = {item["index"]: item["relevance_score"] for item in reply.json()["results"]}
    return [scores[index] for index in range(len(documents))]


@settings(max_examples=60, deadline=None)
@given(
    query=_TEXTS,
    documents=st.lists(_TEXTS, min_size=1, max_size=12),
    data=st.data(),
)
def test_any_cut_of_the_documents_gives_the_same_scores(
    query: str, documents: list[str], data: st.DataObject
) -> None:
    """Shuffled and cut into requests at will, each pair has the score of the one big request."""
    order = data.draw(st.permutations(range(len(documents))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(documents)))) | {0, len(documents)})

    async def run() -> None:
        transport = httpx.ASGITransport(_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            together = await _score(client, query, documents)
            assert all(0 <= score <= 1 for score in together)
            for start, end in pairwise(cuts):
                part = order[start:end]
                scores = await _score(client, query, [documents[index] for index in part])
                assert scores == [together[index] for index in part]

    asyncio.run(run())
