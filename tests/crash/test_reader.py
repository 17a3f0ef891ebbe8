"""The harness's own reader takes what the product writes, and nothing that was changed."""

from __future__ import annotations

import pytest

from rerank_jobs.ledger.segments import encode_segment
from rerank_jobs.model import Failed
from rerank_jobs.storage import seal_json
from tests.crash.reader import check_json, read_segment
from tests.unit.score.fakes import make_request

DOCUMENTS = [
    {"a": 1, "z": {"sha256": "inner"}},
    {"a": [], "b": {}, "usd": 1e-05, "s": "ä\n"},
    {"z": None},
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sealed_json_is_read_and_a_changed_byte_is_not(document: dict[str, object]) -> None:
    """Each document reads back by the reader's own checksum; with any one byte changed, none."""
    data = seal_json(document)
    read = check_json(data)
    assert {key: read[key] for key in document} == document
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ValueError):  # noqa: PT011 - JSON's own error is one
            check_json(changed)


def test_a_segment_is_read_and_a_changed_byte_is_not() -> None:
    """A segment reads back by the reader's own checksum; with any one byte changed, it does not."""
    outcome = Failed(make_request(0, 3), "code", 1, 0.0)
    data = encode_segment([outcome], "plan")
    assert [row["error"] for row in read_segment(data)] == ["code"]
    for place in range(0, len(data), 7):
        with pytest.raises(ValueError):  # noqa: PT011 - Arrow's own errors are some
            read_segment(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
