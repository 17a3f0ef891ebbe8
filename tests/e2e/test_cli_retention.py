"""``gc`` and ``erase`` on the command line: they list first, and never say what is erased."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from rerank_jobs.cli import main
from tests.builders import make_job_data, make_rows, write_rows

CANARY = "canaryquagga"


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    """Return the job file of a table that holds a canary query, published once."""
    rows = make_rows(3, 3)
    for row in rows:
        if row["query_id"] == "q0001":
            row.update(query_id=f"id-{CANARY}", query=f"{CANARY} in the fog")
    write_rows(tmp_path / "candidates.parquet", rows)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_job_data()))
    assert main(["run", str(path), "--json"]) == 0
    return path


def test_gc_lists_and_then_removes(job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dry run says how much would go and that nothing was changed; --delete removes it."""
    stray = job_file.parent / "out.state" / "_all" / "run" / ("f" * 32) / "work.rows-0.arrow"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"text")
    os.utime(stray, (0, 0))
    capsys.readouterr()
    assert main(["gc", str(job_file)]) == 0
    shown = capsys.readouterr().out
    assert "orphaned files" in shown
    assert "Would remove 1 files of 4 bytes" in shown
    assert "Nothing was changed" in shown
    assert stray.exists()
    assert main(["gc", str(job_file), "--partition", "_all", "--delete", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["deleted"] is True
    assert [item["name"] for item in document["garbage"]] == [
        f"_all/run/{'f' * 32}/work.rows-0.arrow"
    ]
    assert not stray.exists()
    assert main(["gc", str(job_file)]) == 0
    assert "Would remove 0 files" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["id", "file"])
def test_erase_tells_and_then_erases(
    job_file: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """Both the dry run and --yes name counts; neither shows the id or the text."""
    texts = job_file.parent / "texts.txt"
    texts.write_text(f"{CANARY} in the fog\r\nanother\n", encoding="utf-8")
    which = ["--query-id", f"id-{CANARY}"] if how == "id" else ["--text-file", str(texts)]
    capsys.readouterr()
    assert main(["erase", str(job_file), *which]) == 0
    shown = capsys.readouterr().out
    assert "3 rows and 3 documents published" in shown
    assert "Nothing was changed: --yes erases it" in shown
    assert main(["erase", str(job_file), *which, "--yes"]) == 0
    shown += capsys.readouterr().out
    assert "now generation 2" in shown
    assert CANARY not in shown
    assert main(["verify", str(job_file)]) == 0
    assert "6 rows" in capsys.readouterr().out
    assert main(["erase", str(job_file), *which, "--yes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["partitions"], document["library"]["pairs"]) == ([], 0)


@pytest.mark.parametrize(("data", "problem"), [(b"\xff\xfe", "not UTF-8"), (b"\n\n", "no text")])
def test_a_file_of_texts_that_is_none_is_an_input_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, problem: str
) -> None:
    """What cannot be read, or is empty, ends with exit code 2 and erases nothing."""
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_job_data()))
    texts = tmp_path / "texts.txt"
    texts.write_bytes(data)
    assert main(["erase", str(path), "--text-file", str(texts), "--yes"]) == 2
    assert problem in capsys.readouterr().err
