"""Which files are merged: few stay, and the work of a year is n log n."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.ledger.tiers import choose_merge

SIZES = st.lists(st.integers(0, 10**9), max_size=20)


def add_all(portions: list[int]) -> tuple[list[int], int]:
    """Add files one by one, merging as the rule says; return the files left and rows written."""
    files: list[int] = []
    written = 0
    for rows in portions:
        files.append(rows)
        written += rows
        while chosen := choose_merge(files):
            merged = sum(files[index] for index in chosen)
            files = [size for index, size in enumerate(files) if index not in chosen] + [merged]
            written += merged
    return files, written


@given(SIZES)
def test_what_is_left_alone_doubles(rows: list[int]) -> None:
    """After merging each file has more rows than all smaller ones; so n rows are log2(n) + 1."""
    files = sorted(add_all(rows)[0])
    assert sum(files) == sum(rows)
    for index in range(1, len(files)):
        assert files[index] > sum(files[:index])
    if sum(rows):
        assert len([size for size in files if size]) <= math.log2(sum(rows)) + 1


@given(SIZES)
def test_the_choice_is_the_smallest_files(rows: list[int]) -> None:
    """No file that is merged is larger than one that is left; one file alone is never merged."""
    chosen = choose_merge(rows)
    assert len(chosen) != 1
    left = [size for index, size in enumerate(rows) if index not in chosen]
    if chosen and left:
        assert max(rows[index] for index in chosen) <= min(left)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=200))
def test_any_portions_are_written_n_log_n_times(portions: list[int]) -> None:
    """Each row is written once, and again at most as often as its file can double."""
    total = sum(portions)
    _, written = add_all(portions)
    assert written <= total * (1 + math.log2(total))


def test_a_year_of_nights() -> None:
    """365 equal nights leave at most nine files and write each row less than nine times."""
    most = max(len(add_all([1000] * nights)[0]) for nights in range(1, 366))
    files, written = add_all([1000] * 365)
    print(f"365 nights: {len(files)} files, {written / 365_000:.2f} writes a row")
    assert most <= 9
    assert written < 9 * 365_000
