"""Example queries with their order before and after, chosen by a rule and not by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rerank_jobs.report.rankings import rankings_from_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rerank_jobs.report.evaluation import Evaluation, QueryDifference
    from rerank_jobs.report.rankings import RankingColumns

__all__ = ["Example", "Place", "build_examples", "choose_examples", "render_examples"]

SHOWN = 5
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Place:
    """One document in an order: its position (1 is first), its id, whether it is an answer."""

    rank: int
    document_id: str
    relevant: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A query with the head of both orders; an answer placed below the head is added at the end.

    ``before`` and ``after`` are sorted by rank. ``best_before`` and ``best_after`` are the places
    of the best relevant document, ``None`` where no candidate is relevant.
    """

    title: str
    query: str
    before: tuple[Place, ...]
    after: tuple[Place, ...]
    best_before: int | None
    best_after: int | None


def choose_examples(evaluation: Evaluation) -> list[tuple[str, QueryDifference]]:
    """Choose up to three: the largest gain, the median gain, and the largest loss, else a tie.

    Gains and losses are of nDCG@10; among equals the longest way of the best answer wins, then the
    group's name. The loss is the worst there is, so that the examples never flatter.
    """
    rows = evaluation.per_query
    gains = sorted(
        (row for row in rows if row.ndcg_change > _SAME),
        key=lambda row: (-row.ndcg_change, row.before.mrr, row.group),
    )
    losses = sorted(
        (row for row in rows if row.ndcg_change < -_SAME),
        key=lambda row: (row.ndcg_change, row.after.mrr, row.group),
    )
    same = sorted(
        (row for row in rows if abs(row.ndcg_change) <= _SAME),
        key=lambda row: (-row.before.ndcg_at_10, row.group),
    )
    chosen = [("Largest gain", row) for row in gains[:1]]
    if len(gains) > 1:
        chosen.append(("Median gain", gains[max(1, len(gains) // 2)]))
    if losses:
        chosen.append(("Largest loss", losses[0]))
    elif same:
        chosen.append(("Unchanged", same[0]))
    return chosen


def build_examples(
    scored: pa.Table,
    qrels: pa.Table,
    evaluation: Evaluation,
    columns: RankingColumns,
    *,
    query: str = "query",
) -> tuple[Example, ...]:
    """Return the chosen examples from a scored table in long layout.

    ``query`` names the column of the query's text; documents are named by their ids. ``qrels`` has
    ``QRELS_SCHEMA``.
    """
    rankings = rankings_from_table(scored, columns)
    rankings = rankings.append_column("query", scored[query])
    return tuple(
        _example(title, row, rankings, qrels, evaluation.options.relevance_level)
        for title, row in choose_examples(evaluation)
    )


def _example(
    title: str, row: QueryDifference, rankings: pa.Table, qrels: pa.Table, level: int
) -> Example:
    judged = qrels.filter(pc.equal(qrels["query_id"], pa.scalar(row.query_id, pa.string())))
    relevant = {
        judgement["document_id"]
        for judgement in judged.to_pylist()
        if judgement["relevance"] >= level
    }
    group = pc.equal(rankings["group"], pa.scalar(row.group, pa.string()))
    rows: list[dict[str, Any]] = rankings.filter(group).to_pylist()
    before, best_before = _places(rows, "before_rank", relevant)
    after, best_after = _places(rows, "after_rank", relevant)
    return Example(title, rows[0]["query"], before, after, best_before, best_after)


def _places(
    rows: list[dict[str, Any]], rank: str, relevant: set[str]
) -> tuple[tuple[Place, ...], int | None]:
    # Ranks may have gaps where rows were rejected; places have none.
    ordered = sorted(rows, key=lambda row: row[rank])
    places = [
        Place(at, row["document_id"], row["document_id"] in relevant)
        for at, row in enumerate(ordered, start=1)
    ]
    best = next((place for place in places if place.relevant), None)
    head = places[:SHOWN]
    if best and best.rank > SHOWN:
        head.append(best)
    return tuple(head), best.rank if best else None


def render_examples(examples: Sequence[Example], *, ascii_only: bool = False) -> Group:
    """Return both orders of each example side by side, the right answers marked."""
    return Group(*(part for one in examples for part in _render(one, ascii_only=ascii_only)))


def _render(example: Example, *, ascii_only: bool) -> list[Text | Table]:
    headline = Text.assemble((f"{example.title}: ", "bold"), _journey(example))
    query = Text(f"  {example.query}", style="italic")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for header in ("before", "after"):
        table.add_column(
            header, ratio=1, no_wrap=True, overflow="crop" if ascii_only else "ellipsis"
        )
    for at in range(max(len(example.before), len(example.after))):
        cells = [
            _cell(places[at], ascii_only=ascii_only) if at < len(places) else Text()
            for places in (example.before, example.after)
        ]
        table.add_row(*cells)
    return [headline, query, table]


def _cell(place: Place, *, ascii_only: bool) -> Text:
    mark = ("*" if ascii_only else "\N{BLACK RIGHT-POINTING TRIANGLE}") if place.relevant else " "
    return Text(
        f"{mark} {place.rank:>2}  {place.document_id}", style="bold green" if place.relevant else ""
    )


def _journey(example: Example) -> str:
    if example.best_before is None or example.best_after is None:
        return "no right answer among the candidates"
    if example.best_before == example.best_after:
        return f"the right answer stays at {example.best_after}"
    return f"the right answer went from {example.best_before} to {example.best_after}"
