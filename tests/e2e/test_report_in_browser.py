"""The run report in a real browser, on a phone's width and in both colour schemes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rerank_jobs.report.page import render_page
from tests.unit.report.test_page import make_figures

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 120

MEASURE = """<script>document.title = [innerWidth, document.documentElement.scrollWidth,
getComputedStyle(document.body).backgroundColor].join(" ")</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome in PATH")
def test_nothing_is_wider_than_a_phone_and_dark_is_dark(tmp_path: Path) -> None:
    """At 500 pixels nothing sticks out to the side, and the background follows the scheme."""
    page = tmp_path / "page.html"
    long = {"partition": "a" * 250, "plan_id": "b" * 64}
    page.write_text(render_page(make_figures(**long)) + MEASURE, encoding="utf-8")
    titles = []
    for scheme in (0, 1):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
        options += [f"--user-data-dir={tmp_path / 'profile'}"]
        options += [f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom"]
        done = subprocess.run(
            [str(BROWSER), *options, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        titles.append(done.stdout.partition("<title>")[2].partition("</title>")[0].split(" ", 2))
    (width, needed, dark), (_, _, light) = titles
    assert int(needed) <= int(width)
    assert (dark, light) == ("rgb(20, 24, 29)", "rgb(246, 247, 249)")
