"""Parquet out: the same rows give the same bytes; maps survive their journey as lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.tables.maps import holds_map, lists_for_maps, restore
from rerank_jobs.tables.sink import choose_row_group, rebatch, write_parquet

MAP = pa.map_(pa.string(), pa.string())
KINDS: list[pa.DataType] = [
    MAP,
    pa.list_(MAP),
    pa.struct([("m", MAP), ("n", pa.int16())]),
    pa.map_(pa.string(), MAP),
    pa.list_(pa.struct([("m", pa.map_(pa.int32(), pa.list_(MAP)))])),
]
PAIRS = [("a", "1"), ("a", "2"), ("b", None)]
VALUES: list[list[Any]] = [
    [PAIRS, [], None],
    [[PAIRS, None, []], None, []],
    [{"m": PAIRS, "n": 1}, None, {"m": None, "n": None}],
    [[("x", PAIRS), ("x", None)], None, []],
    [[{"m": [(1, [PAIRS, None]), (1, None)]}, None], None, []],
]


@pytest.mark.parametrize(("kind", "values"), list(zip(KINDS, VALUES, strict=True)))
@pytest.mark.parametrize("cut", [slice(0, 3), slice(1, 3), slice(0, 1)])
def test_maps_come_back_from_lists_at_any_depth(
    kind: pa.DataType, values: list[Any], cut: slice
) -> None:
    """A map with repeated keys, nulls and slices is the same after being a list of structs."""
    array = pa.array(values, kind)[cut]
    travelling = array.cast(lists_for_maps(kind))
    assert not holds_map(travelling.type)
    back = restore(travelling, kind)
    back.validate(full=True)
    assert back.equals(array)
    assert back.type == kind


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 25))
def test_rebatching_keeps_rows_and_fixes_sizes(sizes: list[int], rows: int) -> None:
    """Whatever batches come in, tables of exactly ``rows`` go out, the last one shorter."""
    numbers = iter(range(10_000))
    batches = [
        pa.table({"x": pa.array([next(numbers) for _ in range(size)], pa.int64())})
        for size in sizes
    ]
    out = list(rebatch(batches, rows))
    assert all(table.num_rows == rows for table in out[:-1])
    assert [x for table in out for x in table["x"].to_pylist()] == list(range(sum(sizes)))


def test_the_same_rows_give_the_same_bytes_whatever_batches_they_came_in(tmp_path: Path) -> None:
    """Two files from differently cut batches are equal byte for byte."""
    table = pa.table(
        {
            "id": [f"row-{number}" for number in range(5_000)],
            "score": [number / 7 for number in range(5_000)],
            "note": [None if number % 3 else "x" * (number % 50) for number in range(5_000)],
        }
    )
    for name, size in (("one", 5_000), ("many", 61)):
        batches = table.to_batches(max_chunksize=size)
        assert write_parquet(tmp_path / name, table.schema, batches, row_group=1_024) == 5_000
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()
    assert pq.read_table(tmp_path / "one").equals(table)


def test_published_pages_carry_checksums(tmp_path: Path) -> None:
    """A flipped byte in a page is noticed by any reader that asks for checksums."""
    path = tmp_path / "part.parquet"
    table = pa.table({"id": [f"row number {number}" for number in range(2_000)]})
    write_parquet(path, table.schema, table.to_batches(), row_group=1_024)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(bytes(data))
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(path, page_checksum_verification=True)


def test_row_groups_follow_the_size_of_rows() -> None:
    """Small rows come 65,536 to a group, large ones in groups of about 48 MiB."""
    assert choose_row_group(100) == 65_536
    assert choose_row_group(30_000) == (48 << 20) // 30_000
    assert choose_row_group(1 << 30) == 256
