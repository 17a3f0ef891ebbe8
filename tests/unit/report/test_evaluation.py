"""Quality before and after: every figure against a formula written out here."""

from __future__ import annotations

import json
from math import log2
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from rerank_jobs.errors import InputError
from rerank_jobs.report.evaluation import (
    EvaluationOptions,
    bootstrap_interval,
    evaluate,
    evaluate_slices,
    evaluation_to_dict,
)
from rerank_jobs.report.quality import render_evaluation, render_slices

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    Build = Callable[..., pa.Table]

ORDERS = {"q1": ("abcd", "cabd"), "q2": ("abc", "bca"), "q3": ("xy", "yx")}
QRELS = [
    ("q1", "c", 3),
    ("q1", "b", 1),
    ("q1", "z", 2),
    ("q2", "a", 1),
    ("q2", "b", 0),
]


def test_measures_follow_their_formulas(rankings_of: Build, qrels_of: Build) -> None:
    """nDCG@10, MRR and recall equal the values worked out by hand, missing documents included."""
    result = evaluate(rankings_of(ORDERS), qrels_of(QRELS))
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    ndcg_before = [(1 / log2(3) + 3 / log2(4)) / ideal, 1.0]
    ndcg_after = [(3 / log2(2) + 1 / log2(4)) / ideal, 1 / log2(4)]
    assert [row.before.ndcg_at_10 for row in result.per_query] == pytest.approx(ndcg_before)
    assert [row.after.ndcg_at_10 for row in result.per_query] == pytest.approx(ndcg_after)
    assert result.before.ndcg_at_10 == pytest.approx(sum(ndcg_before) / 2)
    assert result.before.mrr == pytest.approx((1 / 2 + 1) / 2)
    assert result.after.mrr == pytest.approx((1 + 1 / 3) / 2)
    assert result.before.recall == pytest.approx((2 / 3 + 1) / 2)


def test_counts_say_what_was_left_out(rankings_of: Build, qrels_of: Build) -> None:
    """Queries without judgements and without a relevant document are counted, not averaged."""
    qrels = qrels_of([("q1", "c", 1), ("q2", "a", 0), ("elsewhere", "a", 1)])
    result = evaluate(rankings_of(ORDERS), qrels)
    counts = (result.queries_measured, result.queries_none_relevant, result.queries_unjudged)
    assert counts == (1, 1, 1)
    assert (result.improved, result.same, result.worse) == (1, 0, 0)


def test_recall_cutoff_is_the_k(rankings_of: Build, qrels_of: Build) -> None:
    """Recall@1 looks at the first document alone."""
    options = EvaluationOptions(recall_cutoff=1)
    result = evaluate(rankings_of({"q": ("ab", "ba")}), qrels_of([("q", "b", 1)]), options)
    assert (result.before.recall, result.after.recall) == (0.0, 1.0)


def test_cutoff_is_ten(rankings_of: Build, qrels_of: Build) -> None:
    """A relevant document at place 11 gives nDCG@10 of 0 and a reciprocal rank of 1/11."""
    order = "abcdefghijk"
    result = evaluate(rankings_of({"q": (order, order[::-1])}), qrels_of([("q", "k", 1)]))
    assert result.before.ndcg_at_10 == 0.0
    assert result.before.mrr == pytest.approx(1 / 11)
    assert result.after.ndcg_at_10 == 1.0


def test_judged_only_drops_unjudged_candidates(rankings_of: Build, qrels_of: Build) -> None:
    """With judged_only a relevant document behind unjudged ones counts as first."""
    rankings, qrels = rankings_of({"q": ("abcd", "dabc")}), qrels_of([("q", "c", 1), ("q", "d", 0)])
    everything = evaluate(rankings, qrels)
    judged = evaluate(rankings, qrels, EvaluationOptions(judged_only=True))
    assert everything.before.mrr == pytest.approx(1 / 3)
    assert judged.before.mrr == 1.0
    assert judged.after.mrr == pytest.approx(1 / 2)


def test_relevance_level_moves_mrr_only(rankings_of: Build, qrels_of: Build) -> None:
    """A higher relevance level makes low grades irrelevant for MRR and keeps them as gains."""
    rankings, qrels = rankings_of({"q": ("ab", "ba")}), qrels_of([("q", "a", 1), ("q", "b", 2)])
    low, high = (evaluate(rankings, qrels, EvaluationOptions(relevance_level=n)) for n in (1, 2))
    assert (low.before.mrr, high.before.mrr) == (1.0, 0.5)
    assert low.before.ndcg_at_10 == high.before.ndcg_at_10


def test_bootstrap_is_determined_by_its_seed() -> None:
    """The same seed gives the same interval, another seed another one, and it holds the mean."""
    changes = np.random.default_rng(7).normal(0.1, 0.2, size=80)
    first = bootstrap_interval(changes, samples=500, seed=3)
    assert first == bootstrap_interval(changes, samples=500, seed=3)
    assert first != bootstrap_interval(changes, samples=500, seed=4)
    assert first.low < changes.mean() < first.high


def test_bootstrap_has_the_width_of_the_normal_interval() -> None:
    """For 400 normal differences the interval is within a tenth of mean +- 1.96 standard errors."""
    changes = np.random.default_rng(1).normal(0.0, 1.0, size=400)
    interval = bootstrap_interval(changes, samples=4000, seed=0)
    expected = 2 * 1.96 * changes.std() / 400**0.5
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_slices_are_evaluated_apart(rankings_of: Build, qrels_of: Build) -> None:
    """Each language has its own figures, and one without relevant documents is left out."""
    orders = {"q1": ("ab", "ba"), "q2": ("ab", "ab"), "q3": ("ab", "ba")}
    rankings = rankings_of(orders, {"q1": "en", "q2": "de", "q3": "fr"})
    result = evaluate_slices(rankings, qrels_of([("q1", "b", 1), ("q2", "a", 1)]))
    assert {name: one.after.mrr for name, one in result.items()} == {"de": 1.0, "en": 1.0}
    assert result["en"].before.mrr == 0.5
    assert result["de"].ndcg_change == 0.0


def test_null_slices_have_a_name(rankings_of: Build, qrels_of: Build) -> None:
    """Rows without a slice value are not lost."""
    result = evaluate_slices(rankings_of({"q": ("ab", "ba")}), qrels_of([("q", "a", 1)]))
    assert list(result) == ["(none)"]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ([("Q-1", "a", 1)], "no query_id of the table occurs in the qrels .*'q1'.*'Q-1'"),
        ([("q1", "doc-a", 1)], "no document_id of theirs does .*'a'.*'doc-a'"),
        ([("q1", "a", 0)], "no query of the table has a document of grade 1"),
    ],
)
def test_what_cannot_be_measured_is_an_error(
    rankings_of: Build, qrels_of: Build, qrels: list[tuple[str, str, int]], message: str
) -> None:
    """Ids of different kinds and qrels without relevant documents are told, not averaged to 0."""
    with pytest.raises(InputError, match=message):
        evaluate(rankings_of(ORDERS), qrels_of(qrels))


def test_no_measurable_slice_is_an_error(rankings_of: Build, qrels_of: Build) -> None:
    """A breakdown without a single measurable slice is an error, as a whole evaluation is."""
    with pytest.raises(InputError, match="no query of the table has a relevant document"):
        evaluate_slices(rankings_of(ORDERS), qrels_of([("q1", "a", 0)]))


def test_a_document_ranked_twice_is_an_error(rankings_of: Build, qrels_of: Build) -> None:
    """Two rows of one document in one group are refused instead of silently merged."""
    with pytest.raises(InputError, match="ranks one document_id twice"):
        evaluate(rankings_of({"q": ("aab", "aab")}), qrels_of([("q", "a", 1)]))


def test_dictionary_is_json_and_complete(rankings_of: Build, qrels_of: Build) -> None:
    """The dictionary survives JSON, and holds the per-query rows only when asked."""
    result = evaluate(rankings_of(ORDERS), qrels_of(QRELS))
    brief = json.loads(json.dumps(evaluation_to_dict(result)))
    assert brief["before"]["mrr"] == result.before.mrr
    assert brief["ndcg_change"] == pytest.approx(result.ndcg_change)
    assert "per_query" not in brief
    full = evaluation_to_dict(result, per_query=True)
    assert [row["query_id"] for row in full["per_query"]] == ["q1", "q2"]


def test_rendering_shows_figures_and_what_was_left_out(rankings_of: Build, qrels_of: Build) -> None:
    """The printed table holds both figures, the signed change and the counts."""
    console = Console(width=100)
    result = evaluate(rankings_of(ORDERS), qrels_of(QRELS), EvaluationOptions(judged_only=True))
    with console.capture() as capture:
        console.print(render_evaluation(result))
        console.print(render_slices({"[en]": result}, by="lang"))
    text = capture.get()
    assert f"{result.before.ndcg_at_10:.3f}" in text
    assert f"{result.ndcg_change:+.3f}" in text
    assert "Left out: 1 queries without judgements" in text
    assert "without a judgement were dropped" in text
    assert "[en]" in text
