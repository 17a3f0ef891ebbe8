"""``report``: a published generation in figures, by command."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.unit.cli.kit import CANARIES, JOB, LISTS, call, call_json, make_rows, nest

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("layout", ["long", "nested"])
def test_report_by_command(tmp_path: Path, capsys: Capture, layout: str) -> None:
    """Text, JSON and page tell rows and moves of either layout, and no query or document."""
    rows, data = make_rows(), dict(JOB)
    if layout == "nested":
        columns = {**JOB["input"]["columns"], **LISTS["columns"]}
        data["input"] = {**JOB["input"], "layout": "nested", "columns": columns}
        rows = nest(rows)
    job, page = tmp_path / "job.yaml", tmp_path / "page.html"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "candidates.parquet")
    job.write_text(yaml.safe_dump(data), encoding="utf-8")
    call(capsys, "report", job).assert_says(2, "nothing of partition _all is published yet")
    call_json(capsys, "run", job)

    told = call(capsys, "report", job, "--html", page)
    found = call_json(capsys, "report", job, "--generation", 1)

    assert told.code == 0
    assert "shop, generation 1" in told.out
    assert found["moves"]["documents"] == 12
    assert found["manifest"]["generation"] == found["current"] == 1
    assert "<svg" in page.read_text(encoding="utf-8")
    assert not any(word in page.read_text(encoding="utf-8") for word in CANARIES)
    missing = call(capsys, "report", job, "--generation", 2)
    missing.assert_says(2, "partition _all has no generation 2")
