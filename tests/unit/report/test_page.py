"""The run report's page: values escaped, nothing loaded, the same figures as the plain text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from rerank_jobs.model import ScoreTotals
from rerank_jobs.report.moves import Moves, count_moves, draw_moves, name_classes
from rerank_jobs.report.page import render_notice, render_page, render_text
from rerank_jobs.report.run_figures import RunFigures, Sending, list_sections

HOSTILE = '<script>alert("x")</script>&'


def make_figures(**changes: Any) -> RunFigures:
    """Return the figures of a paid generation; ``changes`` replace keys of its manifest."""
    saved = {"search_units": 40, "tokens": 0, "cost_usd": 0.04}
    manifest = {
        "job": "shop",
        "partition": "2026-11-22",
        "generation": 3,
        "plan_id": "a" * 32,
        "created_at": "2026-11-23T02:10:00+00:00",
        "endpoint": {"url": "https://openrouter.ai/api/v1", "model": "cohere/rerank-v3.5"},
        "parts": [{"name": "ds=2026-11-22/part-00000-abc.parquet", "rows": 990, "size": 12_345}],
        "rejected": [{"name": "ds=2026-11-22/part-00000-def.parquet", "rows": 10, "size": 999}],
        "statuses": {"scored": 900, "reused": 80, "single": 5, "failed": 5},
        "ranking": {"groups": 50, "top1_changed": 20, "scored_groups": 49, "all_equal": 1},
        "promise": {
            "rows_in": 1000,
            "reasons": {"blank_document": 10},
            "candidates_cut": 0,
            "groups": 51,
            "queries": 50,
            "naive_units": 100,
            "naive_usd": 0.1,
            "savings": {"reuse": saved},
            "requests": 60,
            "search_units": 60,
            "cost_usd": 0.06,
            "allowance_usd": 0.08,
        },
        "spent": {"requests": 61, "search_units": 61, "cost_usd": 0.061},
    }
    totals = ScoreTotals(requests=70, throttled=4, retries=9, sends_allowed=100.0)
    return RunFigures(
        manifest={**manifest, **changes},
        current=4,
        output="/out",
        rejected="/out.rejected",
        sending=Sending(totals, 2, 1_764_000_000.0, 1_764_000_060.0, {"p50": 0.12, "p99": 1.5}),
        moves=Moves((0, 0, 0, 0, 0, 300, 390, 200, 100, 0, 0, 0, 0), 990, 700, 990),
    )


class _Tags(HTMLParser):
    """Collects open elements, and whatever would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loaded += [name for name, _ in attrs if name in {"src", "href", "srcset", "style"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing() -> None:
    """Its elements close in order; no script, link, image, address or imported style is in it."""
    page = render_page(make_figures())
    tags = _Tags()
    tags.feed(page)
    assert (tags.open, tags.loaded) == ([], [])
    assert tags.seen.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"url\(|@import|javascript:", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


@pytest.mark.parametrize("key", ["job", "partition", "plan_id"])
def test_values_are_escaped(key: str) -> None:
    """Whatever a name holds is shown as text, and so is what a notice says."""
    for page in (render_page(make_figures(**{key: HOSTILE})), render_notice(HOSTILE, HOSTILE)):
        assert "<script" not in page
        assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;" in page


def test_text_and_page_show_the_same_sections() -> None:
    """Every label and value of the text stands in the page too."""
    figures = make_figures()
    page, text = render_page(figures), render_text(figures)
    for section in list_sections(figures):
        assert f"<h2>{section.title}</h2>" in page
        for label, value in section.rows:
            assert f"<dt>{label}</dt><dd>{value}</dd>" in page
            assert re.search(rf"^  {re.escape(label)} +{re.escape(value)}$", text, re.MULTILINE)


def test_figures_are_those_of_the_manifest_and_the_records() -> None:
    """Prices, savings, trouble, shares and what superseded the generation are told."""
    found = {row for section in list_sections(make_figures()) for row in section.rows}
    assert found >= {
        ("Generation", "3, superseded by 4"),
        ("Rejected", "10 (10 blank_document)"),
        ("Documents reused", "80 (8.1%)"),
        ("less scores of earlier runs", "-40 search units, -$0.04"),
        ("Planned", "60 requests, 60 search units, $0.06"),
        ("Paid", "61 requests, 61 search units, $0.061"),
        ("Throttled (429)", "4"),
        ("Of the rate limit used", "66.0%"),
        ("Latency", "p50 0.12 s, p99 1.50 s"),
        ("First result changed", "20 of 50 (40.0%)"),
        ("/out/ds=2026-11-22/part-00000-abc.parquet", "990 rows, 12.3 kB"),
        ("/out.rejected/ds=2026-11-22/part-00000-def.parquet", "10 rows, 999 bytes"),
    }


def test_the_embedded_endpoint_is_never_called_by_the_models_name() -> None:
    """Its scores must not be taken for those of the model that the job asks for."""
    endpoint = {"url": "embedded", "model": "cohere/rerank-v3.5"}
    text = render_text(make_figures(endpoint=endpoint))
    assert "cohere" not in text
    assert "the embedded endpoint" in text


def test_every_move_is_counted_in_the_class_of_its_name() -> None:
    """Down, unmoved and up documents stand in classes that hold their places, symmetrically."""
    deltas = np.array([-1000, -20, -19, -4, -3, -2, -1, 0, 0, 1, 2, 3, 4, 5, 9, 10, 19, 20])
    moves = count_moves([deltas[:7], deltas[7:]], of=18)
    counted = dict(zip(name_classes(), moves.counts, strict=True))
    minus = "\N{MINUS SIGN}"
    assert counted == {
        f"{minus}20+": 2,
        f"{minus}10-19": 1,
        f"{minus}5-9": 0,
        f"{minus}3-4": 2,
        f"{minus}2": 1,
        f"{minus}1": 1,
        "0": 2,
        "+1": 1,
        "+2": 1,
        "+3-4": 2,
        "+5-9": 2,
        "+10-19": 2,
        "+20+": 1,
    }
    assert (moves.documents, moves.places) == (18, int(np.abs(deltas).sum()))
    assert draw_moves(moves).count("<rect") == len(counted)
    assert count_moves([], of=0) == Moves((0,) * 13, 0, 0, 0)
