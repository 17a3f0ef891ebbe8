"""The scorer that costs nothing is still a pairwise scorer."""

from __future__ import annotations

from rerank_jobs.endpoint.instant import InstantScorer


def test_instant_scores_are_pairwise_and_in_range() -> None:
    """A score depends on query and document alone, and both matter."""
    scorer = InstantScorer()
    texts = [f"text {number}" for number in range(200)]
    scores = scorer.score("q", texts)
    assert scores == [scorer.score("q", [text])[0] for text in texts]
    assert scores != scorer.score("p", texts)
    assert len(set(scores)) > 190
    assert all(0 <= score < 1 for score in scores)


def test_instant_tokens_are_quarter_characters() -> None:
    """Tokens are characters over four, rounded up."""
    assert InstantScorer().count_tokens(["", "a", "abcd", "abcde"]) == [0, 1, 1, 2]
