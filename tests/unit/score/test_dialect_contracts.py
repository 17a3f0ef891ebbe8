"""Each dialect against the documented examples of its API: the body sent, the reply read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import orjson
import pytest

from rerank_jobs.config.endpoint import DialectName
from rerank_jobs.model import Usage
from rerank_jobs.score import DIALECTS
from rerank_jobs.score.exchange import Action, Answer, Malformed, Reply
from tests.unit.score.fakes import reply_body

NOW = 1_790_000_000.0


@dataclass(frozen=True, slots=True)
class Example:
    """A documented call: ``texts`` sent with ``fields`` is ``body``; ``reply`` is read as ``read``.

    Where a document abridges its reply to the first result, ``reply_texts`` is 1.
    """

    dialect: str
    model: str
    texts: list[str]
    body: dict[str, Any]
    reply: str
    read: Reply
    fields: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    reply_texts: int | None = None


EXAMPLES = {
    "OpenRouter": Example(
        dialect="openrouter",
        model="cohere/rerank-v3.5",
        texts=["Paris is the capital of France."],
        body={
            "model": "cohere/rerank-v3.5",
            "query": "q",
            "documents": ["Paris is the capital of France."],
        },
        reply='{"id":"gen-rerank-1234567890-abc","model":"cohere/rerank-v3.5","provider":"Cohere",'
        '"results":[{"index":0,"relevance_score":0.98,"document":{"text":"Paris is the capital of'
        ' France."}}],"usage":{"search_units":1,"total_tokens":150,"cost":0.001}}',
        read=Reply(
            (0.98,),
            Usage(1, 150, 0.001),
            "gen-rerank-1234567890-abc",
            "cohere/rerank-v3.5",
            "Cohere",
        ),
    ),
    "Cohere v2": Example(
        dialect="cohere",
        model="rerank-v3.5",
        texts=["a", "b", "c", "d"],
        fields={"max_tokens_per_doc": 4096, "priority": 0},
        body={
            "model": "rerank-v3.5",
            "query": "q",
            "documents": ["a", "b", "c", "d"],
            "top_n": 4,
            "max_tokens_per_doc": 4096,
            "priority": 0,
        },
        reply='{"id":"07734bd2","results":[{"index":3,"relevance_score":0.999071},{"index":0,'
        '"relevance_score":0.32713068},{"index":2,"relevance_score":0.2},{"index":1,'
        '"relevance_score":0.1}],"meta":{"api_version":{"version":"2","is_experimental":false},'
        '"billed_units":{"search_units":1.0},"warnings":["w"]}}',
        read=Reply((0.32713068, 0.1, 0.2, 0.999071), Usage(search_units=1), "07734bd2", None, None),
    ),
    "Jina": Example(
        dialect="jina",
        model="jina-reranker-v2-base-multilingual",
        texts=["a", "b"],
        body={
            "model": "jina-reranker-v2-base-multilingual",
            "query": "q",
            "documents": ["a", "b"],
            "top_n": 2,
            "return_documents": False,
        },
        reply='{"model":"jina-reranker-v2-base-multilingual","results":[{"index":0,'
        '"relevance_score":0.95}],"usage":{"total_tokens":38}}',
        reply_texts=1,
        read=Reply(
            (0.95,), Usage(total_tokens=38), None, "jina-reranker-v2-base-multilingual", None
        ),
    ),
    "Voyage": Example(
        dialect="voyage",
        model="rerank-2.5",
        texts=["a", "b"],
        fields={"truncation": True},
        body={
            "model": "rerank-2.5",
            "query": "q",
            "documents": ["a", "b"],
            "top_k": 2,
            "return_documents": False,
            "truncation": True,
        },
        reply='{"object":"list","data":[{"index":0,"relevance_score":0.44}],"model":"rerank-2.5",'
        '"usage":{"total_tokens":26}}',
        reply_texts=1,
        read=Reply((0.44,), Usage(total_tokens=26), None, "rerank-2.5", None),
    ),
    "vLLM": Example(
        dialect="vllm",
        model="BAAI/bge-reranker-v2-m3",
        texts=["a", "b"],
        fields={"truncate_prompt_tokens": 512},
        body={
            "model": "BAAI/bge-reranker-v2-m3",
            "query": "q",
            "documents": ["a", "b"],
            "top_n": 0,
            "truncate_prompt_tokens": 512,
        },
        # The document abridges it to the first of two.
        reply='{"id":"rerank-1","model":"BAAI/bge-reranker-v2-m3","usage":{"prompt_tokens":56,'
        '"total_tokens":56},"results":[{"index":1,"document":{"text":"b"},"relevance_score":0.9985}'
        ',{"index":0,"document":{"text":"a"},"relevance_score":0.0004}]}',
        read=Reply(
            (0.0004, 0.9985), Usage(total_tokens=56), "rerank-1", "BAAI/bge-reranker-v2-m3", None
        ),
    ),
    "Text Embeddings Inference": Example(
        dialect="tei",
        model="BAAI/bge-reranker-v2-m3",
        texts=["a", "b"],
        fields={"truncate": True, "truncation_direction": "Right"},
        body={
            "query": "q",
            "texts": ["a", "b"],
            "truncate": True,
            "truncation_direction": "Right",
            "raw_scores": False,
            "return_text": False,
        },
        reply='[{"index":1,"score":0.998},{"index":0,"score":0.02}]',
        headers={"x-compute-tokens": "14", "x-compute-type": "gpu"},
        read=Reply((0.02, 0.998), Usage(total_tokens=14), None, None, None),
    ),
    "Infinity": Example(
        dialect="infinity",
        model="default/not-specified",
        texts=["a"],
        body={
            "model": "default/not-specified",
            "query": "q",
            "documents": ["a"],
            "return_documents": False,
            "raw_scores": False,
            "top_n": 1,
        },
        reply='{"object":"rerank","results":[{"relevance_score":0.97,"index":0,"document":null}],'
        '"model":"default/not-specified","usage":{"prompt_tokens":12,"total_tokens":12},'
        '"id":"infinity-1","created":1}',
        read=Reply((0.97,), Usage(total_tokens=12), "infinity-1", "default/not-specified", None),
    ),
    "LiteLLM": Example(
        dialect="cohere",
        model="rerank-english-v3.0",
        texts=["a"],
        body={"model": "rerank-english-v3.0", "query": "q", "documents": ["a"], "top_n": 1},
        reply='{"id":"1","results":[{"index":0,"relevance_score":0.9,"document":{"text":"a"}}],'
        '"meta":{"billed_units":{"total_tokens":9},"tokens":{"input_tokens":9}}}',
        read=Reply((0.9,), Usage(total_tokens=9), "1", None, None),
    ),
    "NIM": Example(
        dialect="nim",
        model="nvidia/llama-3.2-nv-rerankqa-1b-v2",
        texts=["a", "b"],
        fields={"truncate": "END"},
        body={
            "model": "nvidia/llama-3.2-nv-rerankqa-1b-v2",
            "query": {"text": "q"},
            "passages": [{"text": "a"}, {"text": "b"}],
            "truncate": "END",
        },
        reply='{"rankings":[{"index":0,"logit":1.5},{"index":1,"logit":-1.24}]}',
        read=Reply((1.5, -1.24), Usage(), None, None, None),
    ),
    "Bedrock": Example(
        dialect="bedrock",
        model="cohere.rerank-v3-5:0",
        texts=["a", "b"],
        body={"api_version": 2, "query": "q", "documents": ["a", "b"], "top_n": 2},
        reply='{"results":[{"index":0,"relevance_score":0.87}]}',
        reply_texts=1,
        read=Reply((0.87,), Usage(), None, None, None),
    ),
    "Azure": Example(
        dialect="cohere",
        model="Cohere-rerank-v4.0-pro",
        texts=["a"],
        body={"model": "Cohere-rerank-v4.0-pro", "query": "q", "documents": ["a"], "top_n": 1},
        reply='{"id":"1","results":[{"index":0,"relevance_score":0.99}],"meta":{"api_version":'
        '{"version":"1"},"billed_units":{"search_units":1}}}',
        read=Reply((0.99,), Usage(search_units=1), "1", None, None),
    ),
}

PATHS = {
    "openrouter": "/rerank",
    "cohere": "/rerank",
    "jina": "/rerank",
    "voyage": "/rerank",
    "vllm": "/rerank",
    "tei": "/rerank",
    "infinity": "/rerank",
    "nim": "/ranking",
    "bedrock": "/model/{model}/invoke",
}
MOST = {"tei": 32, "nim": 512, "infinity": 2048}
"""Passages of a request where it is not 1,000."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_body_is_the_documented_one(name: str) -> None:
    """What is sent equals the example, key by key."""
    example = EXAMPLES[name]
    body = DIALECTS[example.dialect].encode(example.model, "q", example.texts, example.fields)
    assert orjson.loads(body) == example.body


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_documented_reply_is_read_whole(name: str) -> None:
    """Scores, usage, id, model and provider come from where the example has them."""
    example = EXAMPLES[name]
    answer = Answer(200, example.headers, example.reply.encode())
    count = example.reply_texts or len(example.texts)
    assert DIALECTS[example.dialect].decode(answer, count, NOW) == example.read


def test_every_dialect_of_the_job_file_has_its_value_and_its_example() -> None:
    """A job file can name exactly the dialects that there are, and each is under contract."""
    assert set(DIALECTS) == set(get_args(DialectName)) == set(PATHS)
    assert {example.dialect for example in EXAMPLES.values()} == set(DIALECTS)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_states_its_path_and_limits(name: str) -> None:
    """Path, most passages and kind of score are part of the value."""
    dialect = DIALECTS[name]
    assert dialect.name == name
    assert dialect.path == PATHS[name]
    assert dialect.max_passages == MOST.get(name, 1000)
    assert dialect.score_kind == ("logit" if name == "nim" else "probability")
    assert dialect.routes == (name == "openrouter")
    assert ("Content-Type", "application/json") in dialect.headers
    assert dict(dialect.by_status) == ({424: Action.RETRY} if name in {"tei", "bedrock"} else {})


@pytest.mark.parametrize("name", DIALECTS)
def test_only_jina_v3_is_listwise(name: str) -> None:
    """Whoever serves jina-reranker-v3, its scores depend on the request; all others' do not."""
    listwise = DIALECTS[name].listwise
    assert listwise("jina-reranker-v3")
    assert listwise("jinaai/Jina-Reranker-v3")
    assert not listwise("jina-reranker-v2-base-multilingual")
    assert not listwise("cohere/rerank-v3.5")


@pytest.mark.parametrize("name", sorted(set(DIALECTS) - {"openrouter"}))
def test_a_model_that_is_not_named_or_badly_is_unknown(name: str) -> None:
    """Where the wire may have no model, its absence is no fault."""
    example = next(example for example in EXAMPLES.values() if example.dialect == name)
    data = orjson.loads(example.reply)
    if isinstance(data, dict):
        data["model"] = 7
    answer = Answer(200, {}, orjson.dumps(data))
    reading = DIALECTS[name].decode(answer, example.reply_texts or len(example.texts), NOW)
    assert isinstance(reading, Reply)
    assert reading.model is None


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("score", [True, "0.5", None, float("nan")])
def test_every_dialect_is_strict_about_scores(name: str, score: object) -> None:
    """What is no finite number is no score under any key."""
    example = next(example for example in EXAMPLES.values() if example.dialect == name)
    data = orjson.loads(example.reply)
    results = data
    if isinstance(data, dict):
        results = next(data[key] for key in ("results", "data", "rankings") if key in data)
    for key in ("relevance_score", "score", "logit"):
        results[0].update({key: score} if key in results[0] else {})
    answer = Answer(200, {}, orjson.dumps(data))
    count = example.reply_texts or len(example.texts)
    assert isinstance(DIALECTS[name].decode(answer, count, NOW), Malformed)


@pytest.mark.parametrize("tokens", ["", "-1", "1.5", "x", "²", "9" * 11])
def test_an_odd_count_of_tokens_in_a_header_is_missing(tokens: str) -> None:
    """A header is a count only if it is all digits."""
    answer = Answer(200, {"x-compute-tokens": tokens}, b'[{"index":0,"score":0.5}]')
    reading = DIALECTS["tei"].decode(answer, 1, NOW)
    assert isinstance(reading, Reply)
    assert reading.usage == Usage()


@pytest.mark.parametrize(
    ("changes", "cost"),
    [
        ({"results": []}, 0.001),
        ({"model": None}, 0.001),
        ({"results": [], "usage": {"cost": -1}}, None),
        ({"results": [], "usage": None}, None),
    ],
)
def test_a_broken_reply_tells_what_it_cost(changes: dict[str, Any], cost: float | None) -> None:
    """Money that a malformed success reports is known to be spent."""
    reading = DIALECTS["openrouter"].decode(Answer(200, {}, reply_body(3, **changes)), 3, NOW)
    assert isinstance(reading, Malformed)
    assert reading.cost_usd == cost
