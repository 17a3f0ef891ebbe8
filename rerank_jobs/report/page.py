"""The run report as one page of HTML: no script, nothing loaded from elsewhere, light and dark.

Pure: figures in, text out. Every value is escaped.
"""

from __future__ import annotations

from html import escape

from rerank_jobs.report.moves import draw_moves
from rerank_jobs.report.run_figures import (
    RunFigures,
    Section,
    list_sections,
    list_tiles,
    name_run,
)

__all__ = ["render_notice", "render_page", "render_text"]

_STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --line: #dfe3e8; --text: #1c232b;
  --faint: #5d6875; --up: #2f7d4f; --down: #b4542f; --same: #8a949f; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --card: #1d232a; --line: #313a44;
  --text: #e6eaee; --faint: #9aa6b2; --up: #5cb984; --down: #e08a63; --same: #77838f; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.25rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; }
h1 { font-size: 1.35rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .6rem; }
.tiles, .cards { display: grid; gap: .8rem; margin-bottom: .8rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.cards { grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.tiles div, section { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; min-width: 0; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.tiles span, dt, figcaption { color: var(--faint); }
section.wide { grid-column: 1 / -1; }
dl { margin: 0; }
dl div { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  padding: .22rem 0; border-top: 1px solid var(--line); }
dl div:first-child { border-top: 0; }
dt, dd { overflow-wrap: anywhere; min-width: 0; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.pair { display: grid; gap: 1rem 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; max-width: 28rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--faint); } svg .name { text-anchor: end; }
svg .up { fill: var(--up); } svg .down { fill: var(--down); } svg .same { fill: var(--same); }
figcaption { font-size: .85rem; }
"""

_WIDE = ("Ranking", "Files")


def render_page(figures: RunFigures) -> str:
    """Return the report of a generation as a page that stands alone."""
    tiles = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>"
        for label, value in list_tiles(figures)
    )
    cards = "".join(_render_card(section, figures) for section in list_sections(figures))
    body = f'<div class="tiles">{tiles}</div><div class="cards">{cards}</div>'
    return _wrap(name_run(figures), body)


def render_notice(title: str, text: str) -> str:
    """Return a page that says why there is no report."""
    return _wrap(title, f"<section><p>{escape(text)}</p></section>")


def render_text(figures: RunFigures) -> str:
    """Return the report as lines of plain text."""
    lines = [name_run(figures)]
    for section in list_sections(figures):
        width = max(len(label) for label, _ in section.rows)
        lines += ["", section.title]
        lines += [f"  {label:<{width}}  {value}" for label, value in section.rows]
    return "\n".join(lines) + "\n"


def _render_card(section: Section, figures: RunFigures) -> str:
    rows = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in section.rows
    )
    kind = ' class="wide"' if section.title in _WIDE else ""
    body = f"<dl>{rows}</dl>"
    if section.title == "Ranking" and figures.moves is not None and figures.moves.documents:
        body = (
            f'<div class="pair">{body}<figure>{draw_moves(figures.moves)}'
            "<figcaption>documents by places moved: + is up</figcaption></figure></div>"
        )
    return f"<section{kind}><h2>{escape(section.title)}</h2>{body}</section>"


def _wrap(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(title)}</h1>{body}</main></body></html>\n"
    )
