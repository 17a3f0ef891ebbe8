"""The summary that closes the demo: quality, movement, examples, price and where the tables are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from rerank_jobs.report.evaluation import evaluate
from rerank_jobs.report.examples import build_examples, render_examples
from rerank_jobs.report.movement import describe_movement, measure_movement
from rerank_jobs.report.quality import render_evaluation
from rerank_jobs.report.rankings import rankings_from_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from rich.console import Console

    from rerank_jobs.report.evaluation import Evaluation
    from rerank_jobs.report.examples import Example
    from rerank_jobs.report.movement import Movement
    from rerank_jobs.report.rankings import RankingColumns

__all__ = [
    "DemoSummary",
    "RunFacts",
    "print_summary",
    "render_summary",
    "summarise_demo",
]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the caller knows of the run: what was sent, and what the plan costs on the real API.

    ``api_seconds`` is the least time at the API's rate limit. ``places`` maps a label to a path.
    """

    queries: int
    pairs: int
    requests_sent: int
    seconds: float
    api_model: str
    api_search_units: int
    api_usd: float
    api_seconds: float
    places: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """Everything that ``render_summary`` shows."""

    evaluation: Evaluation
    movement: Movement
    examples: tuple[Example, ...]
    facts: RunFacts


def summarise_demo(
    scored: pa.Table,
    qrels: pa.Table,
    columns: RankingColumns,
    facts: RunFacts,
    *,
    query: str = "query",
) -> DemoSummary:
    """Measure a scored table in long layout and choose its examples, always the same.

    Raises:
        InputError: a named column is missing, or nothing joins the qrels.
    """
    rankings = rankings_from_table(scored, columns)
    evaluation = evaluate(rankings, qrels)
    movement = measure_movement(
        rankings,
        group="group",
        before_rank="before_rank",
        after_rank="after_rank",
        status="status",
    )
    examples = build_examples(scored, qrels, evaluation, columns, query=query)
    return DemoSummary(evaluation, movement, examples, facts)


def print_summary(console: Console, summary: DemoSummary) -> None:
    """Print for people, in plain text where there is no terminal; queries are shown, so never log.

    Lines keep to the console's width, but paths stay whole so that they can be copied.
    """
    console.print(render_summary(summary, ascii_only=console.options.ascii_only), crop=False)


def render_summary(summary: DemoSummary, *, ascii_only: bool = False) -> Group:
    """Return the summary for ``print_summary``, in characters that the console's encoding has."""
    facts = summary.facts
    return Group(
        _headline(facts),
        render_evaluation(summary.evaluation),
        Text(describe_movement(summary.movement)),
        Text(),
        render_examples(summary.examples, ascii_only=ascii_only),
        Text.assemble(
            ("On the real API: ", "bold"),
            f"{facts.api_search_units:,} search units of {facts.api_model},"
            f" ${facts.api_usd:,.2f}, {_duration(facts.api_seconds)} at its rate limit.",
        ),
        Text(),
        *_places(facts.places),
    )


def _headline(facts: RunFacts) -> Text:
    sent = (
        f"{facts.requests_sent:,} requests sent"
        if facts.requests_sent
        else "nothing sent: every score was there already"
    )
    return Text.assemble(
        (f"{facts.queries:,} queries, {facts.pairs:,} query-document pairs reranked", "bold"),
        f" in {_duration(facts.seconds)}; {sent}.",
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _places(places: Mapping[str, str]) -> list[Text]:
    width = max(map(len, places), default=0)
    # A path must stay one word that can be copied, so it is never wrapped.
    return [
        Text(f"{label:<{width}}  {path}", no_wrap=True, overflow="ignore")
        for label, path in places.items()
    ]
