"""What of a job's endpoint reaches the scoring engine."""

from __future__ import annotations

from rerank_jobs.config import Endpoint
from rerank_jobs.score import ScoreSettings

JINA = "https://api.jina.ai/v1"


def test_every_bound_of_the_endpoint_is_kept() -> None:
    """Paces (by share), patience, prices and fields of the job file are those of the run."""
    endpoint = Endpoint(
        url="https://openrouter.ai/api/v1",
        requests_per_minute=600,
        tokens_per_minute=90_000,
        share=0.5,
        max_concurrency=7,
        timeout_seconds=33,
        patience_seconds=44,
        usd_per_search=0.002,
        usd_per_million_tokens=0.05,
        user="team",
    )
    settings = ScoreSettings.from_endpoint(endpoint, 1.5, 60)
    assert (settings.limit, settings.token_limit, settings.max_concurrency) == (300, 45_000, 7)
    assert (settings.timeout_seconds, settings.patience_seconds) == (33, 44)
    assert (settings.price_usd, settings.token_price_usd * 1e6) == (0.002, 0.05)
    assert (settings.allowance_usd, settings.max_seconds) == (1.5, 60)
    assert settings.fields == {"user": "team"}
    assert settings.target.url == endpoint.url


def test_a_limit_is_scaled_to_the_window_in_which_the_endpoint_counts() -> None:
    """1,000 a minute are 100 in six seconds; without a word a window is a minute."""
    endpoint = Endpoint(url=JINA, requests_per_minute=1000, tokens_per_minute=90_000)
    minute = ScoreSettings.from_endpoint(endpoint, None)
    assert (minute.limit, minute.token_limit, minute.window_seconds) == (1000, 90_000, 60)
    short = endpoint.model_copy(update={"limit_window_seconds": 6})
    settings = ScoreSettings.from_endpoint(short, None)
    assert (settings.limit, settings.token_limit, settings.window_seconds) == (100, 9000, 6)


def test_a_listwise_model_is_never_split() -> None:
    """By name, by the job's word, or not: the job's word goes first."""

    def splits(model: str, *, listwise: bool | None = None) -> bool:
        endpoint = Endpoint(url=JINA, dialect="jina", model=model, listwise=listwise)
        return ScoreSettings.from_endpoint(endpoint, None).splits

    assert splits("jina-reranker-v2-base-multilingual")
    assert not splits("jina-reranker-v3")
    assert not splits("jina-reranker-v2-base-multilingual", listwise=True)
    assert splits("jina-reranker-v3", listwise=False)
