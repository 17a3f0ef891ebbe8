"""While a run scores over real sockets into a ledger on disk, nothing blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blockbuster import BlockBuster, BlockBusterFunction, BlockingError, blockbuster_ctx

from rerank_jobs.config import Endpoint, Ledger, Secret
from rerank_jobs.ledger.sealing import SegmentWriter
from rerank_jobs.ledger.segments import encode_segment, segment_name
from rerank_jobs.model import Outcome
from rerank_jobs.score import (
    DIALECTS,
    Progress,
    ScoreResult,
    ScoreSettings,
    open_client,
    score_requests,
)
from rerank_jobs.storage import LocalStore
from tests.unit.score.fakes import KEY, make_requests, reply_body

REQUESTS = 60
PLAN = "0" * 32


@pytest.fixture
def buster() -> Iterator[BlockBuster]:
    """Make blocking calls in an event loop raise; fsync, which blockbuster leaves out, too."""
    with blockbuster_ctx() as buster:
        buster.functions["os.fsync"] = BlockBusterFunction(None, "os.fsync")
        buster.functions["os.fsync"].activate()
        yield buster


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request of a connection with three scores."""
    body = reply_body(3)
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            writer.write(reply)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def score(ledger: SegmentWriter) -> ScoreResult:
    """Score into ``ledger`` from a server on the loopback interface."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    endpoint = Endpoint(url=f"http://127.0.0.1:{port}/api/v1", max_concurrency=8)
    progress: list[Progress] = []
    client = open_client(endpoint, Secret(KEY))
    try:
        async with ledger:
            return await score_requests(
                make_requests(REQUESTS),
                settings=replace(ScoreSettings.from_endpoint(endpoint, None), limit=None),
                client=client,
                dialect=DIALECTS["openrouter"],
                accept=ledger.accept,
                observe=progress.append,
            )
    finally:
        await client.aclose()
        server.close()


class BlockingWriter(SegmentWriter):
    """Seals one reply at a time, in the event loop."""

    async def accept(self, outcome: Outcome) -> None:
        name = segment_name(self.folder, self.epoch, outcome.request.number)
        self.store.put_if_absent(name, encode_segment([outcome], self.plan_id))


@pytest.mark.usefixtures("buster")
def test_nothing_blocks_the_loop_while_the_ledger_seals(tmp_path: Path) -> None:
    """Sending, judging and sealing 60 replies, five a segment, never blocks the loop."""
    bounds = Ledger(max_unsaved_replies=5, max_unsaved_seconds=0.05)
    ledger = SegmentWriter(LocalStore(str(tmp_path)), "run", 1, PLAN, bounds)
    result = asyncio.run(score(ledger))
    assert (result.stop, result.totals.replies, ledger.sealed) == (None, REQUESTS, REQUESTS)
    assert len(list(tmp_path.glob("run/seg/*.arrow"))) >= 2


@pytest.mark.usefixtures("buster")
def test_a_sync_in_the_loop_would_be_noticed(tmp_path: Path) -> None:
    """The test above fails for a ledger that puts its segments in the event loop."""
    ledger = BlockingWriter(LocalStore(str(tmp_path)), "run", 1, PLAN, Ledger())
    with pytest.raises(BlockingError):
        asyncio.run(score(ledger))


@pytest.mark.usefixtures("buster")
def test_fsync_alone_is_noticed(tmp_path: Path) -> None:
    """A bare fsync in the loop is a blocking call to this file."""

    async def sync() -> None:
        import os

        os.fsync(descriptor.fileno())

    with (tmp_path / "file").open("wb") as descriptor, pytest.raises(BlockingError, match="fsync"):
        asyncio.run(sync())
