"""Ranking quality before and after reranking, measured against relevance judgements."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rerank_jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ir_measures import Measure

__all__ = [
    "Evaluation",
    "EvaluationOptions",
    "Interval",
    "Measures",
    "QueryDifference",
    "bootstrap_interval",
    "evaluate",
    "evaluate_slices",
    "evaluation_to_dict",
]

NDCG_CUTOFF = 10
_SAME = 1e-9
_CELLS_PER_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to measure.

    ``judged_only`` drops candidates without a judgement before measuring. A document is relevant,
    for MRR, Recall and counting, from grade ``relevance_level``. ``recall_cutoff`` is the k of
    Recall@k. ``count_none_relevant`` counts queries without a relevant document as 0, as trec_eval
    does, instead of leaving them out. The interval rests on ``bootstrap_samples`` resamples drawn
    from ``seed``.
    """

    judged_only: bool = False
    relevance_level: int = 1
    recall_cutoff: int = 10
    count_none_relevant: bool = False
    bootstrap_samples: int = 2000
    seed: int = 0


DEFAULTS = EvaluationOptions()


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one group or the mean of many, each in [0, 1]; ``recall`` is Recall@``recall_cutoff``."""

    ndcg_at_10: float
    mrr: float
    recall: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval; ``level`` is its nominal coverage (0.95)."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class QueryDifference:
    """One group's measures in both orders; ``group`` is the query id, or names one search."""

    group: str
    query_id: str
    before: Measures
    after: Measures

    @property
    def ndcg_change(self) -> float:
        """Return nDCG@10 after minus before."""
        return self.after.ndcg_at_10 - self.before.ndcg_at_10


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Quality before and after, with the paired difference and what it rests on.

    ``queries_measured`` groups alone enter the means. ``queries_none_relevant`` have judgements but
    no relevant document: no order of them is better than another, so they are left out, or count
    as 0 in both orders if the options say so. ``queries_unjudged`` have no judgement. Improved,
    same and worse count measured groups by nDCG@10; ``interval`` is of their mean difference.
    """

    before: Measures
    after: Measures
    interval: Interval
    options: EvaluationOptions
    queries_measured: int
    queries_none_relevant: int
    queries_unjudged: int
    improved: int
    same: int
    worse: int
    per_query: tuple[QueryDifference, ...]

    @property
    def ndcg_change(self) -> float:
        """Return mean nDCG@10 after minus before."""
        return self.after.ndcg_at_10 - self.before.ndcg_at_10


def evaluate(
    rankings: pa.Table, qrels: pa.Table, options: EvaluationOptions = DEFAULTS
) -> Evaluation:
    """Measure nDCG@10, MRR and Recall@k of both orders of the same candidates.

    nDCG takes the grade itself as gain, log2 as discount, and its ideal from all judged documents,
    retrieved or not (trec_eval's ndcg_cut). MRR looks at the whole list. Ranks alone decide: equal
    scores cannot change a figure. The interval is a paired percentile bootstrap over groups (Efron
    and Tibshirani 1993, chapter 13); the same seed gives the same interval.

    Args:
        rankings: rows of ``rankings.RANKINGS_SCHEMA``.
        qrels: rows of ``qrels.QRELS_SCHEMA``.
        options: how to measure.

    Raises:
        InputError: no query or no document id occurs in both tables, no query has a relevant
            document, or a group ranks one document twice.
    """
    judged_rows = rankings.filter(pc.is_in(rankings["query_id"], qrels["query_id"].unique()))
    _require_join(rankings, qrels, judged_rows)
    judgements = _grades_by_group(judged_rows, qrels)
    relevant = {
        group: grades
        for group, grades in judgements.items()
        if max(grades.values()) >= options.relevance_level
    }
    if not relevant:
        raise InputError(
            f"no query of the table has a document of grade {options.relevance_level} or more"
            " in the qrels"
        )
    truth = judgements if options.count_none_relevant else relevant
    per_query = _compare(judged_rows, truth, _wanted(options))
    changes = np.array([row.ndcg_change for row in per_query])
    improved, worse = int((changes > _SAME).sum()), int((changes < -_SAME).sum())
    return Evaluation(
        before=_mean([row.before for row in per_query]),
        after=_mean([row.after for row in per_query]),
        interval=bootstrap_interval(changes, samples=options.bootstrap_samples, seed=options.seed),
        options=options,
        queries_measured=len(truth),
        queries_none_relevant=len(judgements) - len(relevant),
        queries_unjudged=pc.count_distinct(rankings["group"]).as_py() - len(judgements),
        improved=improved,
        same=len(truth) - improved - worse,
        worse=worse,
        per_query=per_query,
    )


def evaluate_slices(
    rankings: pa.Table, qrels: pa.Table, options: EvaluationOptions = DEFAULTS
) -> dict[str, Evaluation]:
    """Return ``evaluate`` for each value of the rankings' ``slice`` column, sorted by value.

    Null counts as the value ``(none)``. Slices without a single measurable query are left out.

    Raises:
        InputError: as ``evaluate`` does, or no slice can be measured.
    """
    values: pa.ChunkedArray[Any] = pc.if_else(
        pc.is_valid(rankings["slice"]), rankings["slice"], pa.scalar("(none)", pa.string())
    )
    evaluations: dict[str, Evaluation] = {}
    for value in sorted(map(str, values.unique().to_pylist())):
        rows = rankings.filter(pc.equal(values, pa.scalar(value, pa.string())))
        if not _has_relevant(rows, qrels, options.relevance_level):
            continue
        evaluations[value] = evaluate(rows, qrels, options)
    if not evaluations:
        raise InputError("no query of the table has a relevant document in the qrels")
    return evaluations


def bootstrap_interval(changes: np.ndarray, *, samples: int, seed: int) -> Interval:
    """Return the 95 % percentile interval of the mean of ``changes`` over resampled groups."""
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    rows = max(1, _CELLS_PER_CHUNK // len(changes))
    for start in range(0, samples, rows):
        count = min(rows, samples - start)
        picks = rng.integers(0, len(changes), size=(count, len(changes)))
        means[start : start + count] = changes[picks].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))


def _require_join(rankings: pa.Table, qrels: pa.Table, joined: pa.Table) -> None:
    """Tell ids of different kinds from a table that was merely never judged."""
    if not joined.num_rows:
        raise InputError(
            "no query_id of the table occurs in the qrels"
            f" ({_both(rankings['query_id'], qrels['query_id'])})"
        )
    if not pc.any(pc.is_in(joined["document_id"], qrels["document_id"].unique())).as_py():
        raise InputError(
            "queries join the qrels, but no document_id of theirs does"
            f" ({_both(joined['document_id'], qrels['document_id'])})"
        )


def _both(ours: pa.ChunkedArray[Any], theirs: pa.ChunkedArray[Any]) -> str:
    """Show the first id of each side, which tells most mismatches at a glance."""
    first, other = (repr(ids[0].as_py()[:40]) if len(ids) else "empty" for ids in (ours, theirs))
    return f"the table has {first}, the qrels {other}: name columns that hold the same ids"


def _has_relevant(rankings: pa.Table, qrels: pa.Table, relevance_level: int) -> bool:
    level = pa.scalar(relevance_level, pa.int64())
    relevant = qrels.filter(pc.greater_equal(qrels["relevance"], level))
    queries = relevant["query_id"].unique()
    return bool(pc.any(pc.is_in(rankings["query_id"], queries), min_count=0).as_py())


def _grades_by_group(rankings: pa.Table, qrels: pa.Table) -> dict[str, dict[str, int]]:
    by_query: dict[str, dict[str, int]] = {}
    for query, document, grade in _rows(qrels, "query_id", "document_id", "relevance"):
        by_query.setdefault(query, {})[document] = grade
    query_of = dict(_rows(rankings, "group", "query_id"))
    return {group: by_query[query] for group, query in query_of.items()}


def _rows(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _wanted(options: EvaluationOptions) -> tuple[Measure, ...]:
    level, judged_only = options.relevance_level, options.judged_only
    return (
        ir_measures.nDCG(judged_only=judged_only) @ NDCG_CUTOFF,
        ir_measures.RR(rel=level, judged_only=judged_only),
        ir_measures.R(rel=level, judged_only=judged_only) @ options.recall_cutoff,
    )


def _compare(
    rankings: pa.Table, truth: Mapping[str, Mapping[str, int]], measures: tuple[Measure, ...]
) -> tuple[QueryDifference, ...]:
    """Measure both orders of every group of ``truth``, sorted by group."""
    rows = rankings.filter(pc.is_in(rankings["group"], pa.array(list(truth), pa.string())))
    evaluator = ir_measures.pytrec_eval.evaluator(measures, truth)
    values: dict[str, dict[tuple[str, Measure], float]] = {}
    for name in ("before_rank", "after_rank"):
        run: dict[str, dict[str, float]] = {}
        for group, document, rank in _rows(rows, "group", "document_id", name):
            # A rank is unique in its group, so as a score it leaves no ties to break.
            run.setdefault(group, {})[document] = -float(rank)
        if sum(map(len, run.values())) != rows.num_rows:
            raise InputError("a query of the table ranks one document_id twice")
        values[name] = {(m.query_id, m.measure): m.value for m in evaluator.iter_calc(run)}
    query_of: dict[str, str] = dict(_rows(rows, "group", "query_id"))
    return tuple(
        QueryDifference(
            group,
            query_of[group],
            Measures(*(values["before_rank"][group, measure] for measure in measures)),
            Measures(*(values["after_rank"][group, measure] for measure in measures)),
        )
        for group in sorted(truth)
    )


def _mean(rows: list[Measures]) -> Measures:
    columns = zip(*((row.ndcg_at_10, row.mrr, row.recall) for row in rows), strict=True)
    return Measures(*(math.fsum(column) / len(rows) for column in columns))


def evaluation_to_dict(evaluation: Evaluation, *, per_query: bool = False) -> dict[str, Any]:
    """Return the evaluation as JSON values; the per-query rows only when asked for."""
    facts = asdict(evaluation)
    rows = facts.pop("per_query")
    facts["ndcg_change"] = evaluation.ndcg_change
    if per_query:
        facts["per_query"] = rows
    return facts
