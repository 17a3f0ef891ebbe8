"""The demo's summary: which examples are chosen and what is printed."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from rich.console import Console

from rerank_jobs.report.evaluation import evaluate
from rerank_jobs.report.examples import Place, choose_examples, render_examples
from rerank_jobs.report.rankings import RankingColumns
from rerank_jobs.report.summary import DemoSummary, RunFacts, print_summary, summarise_demo

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[..., pa.Table]

COLUMNS = RankingColumns("query_id", "doc_id")
FACTS = RunFacts(
    queries=4,
    pairs=31,
    requests_sent=0,
    seconds=0.26,
    api_model="cohere/rerank-v3.5",
    api_search_units=1234,
    api_usd=1.234,
    api_seconds=7400,
    places={"tables": "out/" + "long/" * 30, "qrels": "q"},
)
# The relevant document is always r.
ORDERS = {
    "best": ("abcdefgr", "rabcdefg"),
    "good": ("abr", "rab"),
    "mild": ("abcr", "abrc"),
    "same": ("rab", "rba"),
    "bad": ("rab[", "a[br"),
}


@pytest.fixture
def summary(qrels_of: Build) -> DemoSummary:
    """Return the summary of the hand-made orders."""
    return summarise_demo(_scored(ORDERS), _qrels(qrels_of, ORDERS), COLUMNS, FACTS)


def _scored(orders: dict[str, tuple[str, str]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "query_id": query,
                "query": f"what is [bold]{query}[/bold]?",
                "doc_id": document,
                "rerank_first_stage_rank": at,
                "rerank_rank": after.index(document) + 1,
                "rerank_status": "scored",
            }
            for query, (before, after) in orders.items()
            for at, document in enumerate(before, start=1)
        ]
    )


def _qrels(qrels_of: Build, orders: dict[str, tuple[str, str]]) -> pa.Table:
    return qrels_of([(query, "r", 1) for query in orders])


def _text(renderable: object) -> str:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_examples_are_the_largest_gain_the_median_gain_and_the_largest_loss(
    summary: DemoSummary,
) -> None:
    """The three kinds are chosen by rule, the worst loss among them."""
    chosen = [(one.title, one.query.split("]")[1].split("[")[0]) for one in summary.examples]
    assert chosen == [("Largest gain", "best"), ("Median gain", "good"), ("Largest loss", "bad")]


def test_answers_below_the_head_are_shown_with_their_place(summary: DemoSummary) -> None:
    """Five places and the answer's own are shown, the answer marked relevant, and it alone."""
    example = summary.examples[0]
    assert [place.rank for place in example.before] == [1, 2, 3, 4, 5, 8]
    assert [place.document_id for place in example.after] == list("rabcd")
    assert [place.relevant for place in example.before] == [False] * 5 + [True]
    assert (example.best_before, example.best_after) == (8, 1)


def test_without_losses_an_unchanged_query_is_shown(rankings_of: Build, qrels_of: Build) -> None:
    """Where nothing got worse, the last example is one that stayed."""
    orders = {name: ORDERS[name] for name in ("best", "same")}
    evaluation = evaluate(rankings_of(orders), _qrels(qrels_of, orders))
    chosen = [(title, row.query_id) for title, row in choose_examples(evaluation)]
    assert chosen == [("Largest gain", "best"), ("Unchanged", "same")]


def test_equal_gains_are_decided_by_the_longest_way(rankings_of: Build, qrels_of: Build) -> None:
    """Two answers that enter the first ten at the top: the one from further down is shown."""
    near, far = "abcdefghijr", "abcdefghijklmr"
    orders = {"near": (near, "r" + near[:-1]), "xfar": (far, "r" + far[:-1])}
    evaluation = evaluate(rankings_of(orders), _qrels(qrels_of, orders))
    assert choose_examples(evaluation)[0][1].query_id == "xfar"


def test_the_order_of_rows_does_not_matter(summary: DemoSummary, qrels_of: Build) -> None:
    """A shuffled table gives the same summary."""
    scored = _scored(ORDERS)
    shuffled = scored.take(list(range(scored.num_rows))[::-1])
    again = summarise_demo(shuffled, _qrels(qrels_of, ORDERS), COLUMNS, FACTS)
    assert again == summary


def test_the_text_tells_everything_in_100_columns(summary: DemoSummary) -> None:
    """Figures, movement, examples, price and paths are there; only a path may be longer."""
    stream = io.StringIO()
    print_summary(Console(file=stream, width=100), summary)
    text = stream.getvalue()
    for part in (
        "nothing sent",
        "nDCG@10",
        "The first result changed in 60% of 5 queries",
        "Largest loss: the right answer went from 1 to 4",
        "what is [bold]bad[/bold]?",
        "1,234 search units of cohere/rerank-v3.5, $1.23, 2.1 h",
        FACTS.places["tables"],
    ):
        assert part in text
    assert max(len(line) for line in text.splitlines() if "long/" not in line) <= 100


def test_plain_ascii_is_enough(summary: DemoSummary) -> None:
    """For a stream that knows only ASCII, marks are ASCII and long ids are cut without ellipsis."""
    place = Place(1, "r" * 60, relevant=True)
    example = replace(summary.examples[0], before=(place,))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=stream, width=60)
    console.print(render_examples([example], ascii_only=console.options.ascii_only))
    stream.seek(0)
    assert "*  1  rrr" in stream.read()


def test_a_query_without_any_answer_is_told(qrels_of: Build) -> None:
    """A query whose answer is no candidate says so instead of showing a place."""
    orders = {"q": ("ab", "ba"), "p": ("br", "rb")}
    qrels = qrels_of([("q", "r", 1), ("p", "r", 1)])
    summary = summarise_demo(_scored(orders), qrels, COLUMNS, FACTS)
    assert [one.title for one in summary.examples] == ["Largest gain", "Unchanged"]
    assert "no right answer among the candidates" in _text(render_examples(summary.examples))
