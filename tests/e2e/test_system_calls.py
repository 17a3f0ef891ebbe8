"""A whole run under strace: nothing has its name before its bytes and its folder are durable."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system_calls import (
    SYNCS,
    TRACED,
    Call,
    find_hasty_names,
    list_created,
    read_trace,
)
from tests.unit.cli.kit import make_rows, set_up

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the roots that the traced run made: output, rejected rows, state."""
    folder = tmp_path_factory.mktemp("traced")
    return [folder / name for name in ("out", "out.rejected", "out.state")]


@pytest.fixture(scope="module")
def calls(roots: list[Path]) -> list[Call]:
    """Trace a run of several shards with a rejected row."""
    folder = roots[0].parent
    rows = [*make_rows(12, 4), {**make_rows(1, 1)[0], "query_id": "blank", "query": " "}]
    job = set_up(folder, {"shards": {"rows_per_shard": 20}}, rows)
    trace = folder / "trace"
    command = ["strace", "-f", "-y", "-s", "0", "-e", TRACED, "-o", str(trace)]
    run = subprocess.run(
        [*command, sys.executable, "-m", "rerank_jobs", "run", str(job), "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    if not trace.is_file() or not trace.read_text():
        pytest.skip("tracing is not permitted here")
    assert run.returncode == 0, run.stderr
    return read_trace(trace, roots)


def test_every_file_is_durable_before_its_name_and_its_name_before_the_next(
    calls: list[Call], roots: list[Path]
) -> None:
    """Each object of state and output has its bytes synced, is linked, has its folder synced.

    So are folders in their parents. What stands there afterwards was all seen to be created.
    """
    assert find_hasty_names(calls) == []
    created = {call.paths[-1] for call in list_created(calls)}
    standing = {
        str(path)
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".beat"
    }
    assert standing <= created
    kinds = ("/seg/", "/claim/", "/plan/", "/manifest/", "/done.json", "/work.", "/part-", "/salt")
    assert all(any(kind in name for name in created) for kind in kinds)
    assert any(name.startswith(f"{roots[0]}/part-") for name in created)
    assert any(name.startswith(f"{roots[1]}/part-") for name in created)


def test_a_missing_sync_would_be_found(calls: list[Call]) -> None:
    """Without the sync of any one object's bytes, or of any one's folder, the check fails."""
    created = list_created(calls)
    sources = {call.paths[0] for call in created}
    for number, call in enumerate(calls):
        if call.name in SYNCS and call.paths[0] in sources:
            assert find_hasty_names([*calls[:number], *calls[number + 1 :]])
    for named in created:
        folder = str(Path(named.paths[-1]).parent)
        end = min(
            (c.began for c in created if c.thread == named.thread and c.began > named.ended),
            default=float("inf"),
        )
        without = [
            call
            for call in calls
            if not (
                call.name in SYNCS
                and folder in call.paths
                and call.thread == named.thread
                and named.ended < call.began
                and call.ended < end
            )
        ]
        assert len(without) < len(calls)
        assert find_hasty_names(without)


def test_a_sync_that_comes_late_would_be_found(calls: list[Call]) -> None:
    """A sync of bytes that ends only after the link does not count."""
    first = list_created(calls)[0]
    late = [
        dataclasses.replace(call, ended=first.ended + 1)
        if call.name in SYNCS and call.paths[0] == first.paths[0]
        else call
        for call in calls
    ]
    assert find_hasty_names(late)
