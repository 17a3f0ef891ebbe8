"""An evaluation as a small table for people, on a terminal or in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rerank_jobs.report.evaluation import Evaluation, Measures

__all__ = ["render_evaluation", "render_slices", "signed"]


def render_evaluation(evaluation: Evaluation, *, title: str | None = None) -> Group:
    """Return a small table of both orders and the lines that say what it rests on."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "before", "after", "change"):
        table.add_column(name, justify="left" if not name else "right")
    names = ("nDCG@10", "MRR", f"Recall@{evaluation.options.recall_cutoff}")
    before, after = _values(evaluation.before), _values(evaluation.after)
    for name, old, new in zip(names, before, after, strict=True):
        table.add_row(name, f"{old:.3f}", f"{new:.3f}", signed(new - old))
    return Group(table, *(Text(line) for line in _footing(evaluation)))


def render_slices(evaluations: Mapping[str, Evaluation], *, by: str) -> Table:
    """Return one row per slice: nDCG@10 before, after, change, its interval, and the counts."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(by)
    for name in ("queries", "nDCG@10 before", "after", "change", "95 % interval", "better/worse"):
        table.add_column(name, justify="right")
    for value, one in evaluations.items():
        table.add_row(
            Text(value),
            f"{one.queries_measured:,}",
            f"{one.before.ndcg_at_10:.3f}",
            f"{one.after.ndcg_at_10:.3f}",
            signed(one.ndcg_change),
            f"{signed(one.interval.low)} to {signed(one.interval.high)}",
            f"{one.improved:,}/{one.worse:,}",
        )
    return table


def _values(measures: Measures) -> tuple[float, float, float]:
    return measures.ndcg_at_10, measures.mrr, measures.recall


def signed(value: float) -> str:
    """Return a change with its sign and three decimals; a rounded zero is positive."""
    # Adding 0.0 turns a rounded -0.000 into +0.000.
    return f"{round(value, 3) + 0.0:+.3f}"


def _footing(evaluation: Evaluation) -> list[str]:
    low, high = evaluation.interval.low, evaluation.interval.high
    lines = [
        (
            f"Change of nDCG@10 {signed(evaluation.ndcg_change)},"
            f" 95 % interval {signed(low)} to {signed(high)} (paired bootstrap)."
        ),
        (
            f"{evaluation.queries_measured:,} queries measured: {evaluation.improved:,} better,"
            f" {evaluation.same:,} same, {evaluation.worse:,} worse."
        ),
    ]
    if evaluation.queries_unjudged:
        lines.append(f"Left out: {evaluation.queries_unjudged:,} queries without judgements.")
    if evaluation.queries_none_relevant:
        counted = evaluation.options.count_none_relevant
        how = "count as 0 before and after" if counted else "are left out"
        lines.append(
            f"{evaluation.queries_none_relevant:,} queries without a relevant document {how}."
        )
    if evaluation.options.judged_only:
        lines.append("Candidates without a judgement were dropped before measuring.")
    return lines
