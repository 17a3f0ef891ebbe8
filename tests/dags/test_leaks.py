"""The search for leaks finds what is planted, so that finding nothing means something."""

from __future__ import annotations

import base64
import gzip
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.dags.leaks import find_leaks

WORD = "zanzibarquagga"
TEXT = f'{{"message": "about {WORD}"}}'.encode()


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        zlib.compress,
        base64.b64encode,
        base64.urlsafe_b64encode,
        lambda text: b"key=" + base64.b64encode(zlib.compress(text)) + b";",
        lambda text: b"/tmp/ab" + base64.b64encode(text).rstrip(b"="),
        lambda text: gzip.compress(b"Basic " + base64.b64encode(text)),
    ],
)
def test_a_word_is_found_however_it_is_packed(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    """In a file and in a database row, plain, packed, encoded, or one inside the other."""
    (tmp_path / "a.log").write_bytes(pack(TEXT))
    with closing(sqlite3.connect(tmp_path / "a.db")) as database, database:
        database.execute("CREATE TABLE xcom (value)")
        database.execute("INSERT INTO xcom VALUES (?)", (pack(TEXT),))

    found = find_leaks(tmp_path, [WORD, "nowhere"])

    assert found == sorted([f"{tmp_path / 'a.log'}: {WORD}", f"xcom: {WORD}"])


def test_nothing_is_found_where_there_is_nothing(tmp_path: Path) -> None:
    """Packed content of another kind raises no alarm and no error."""
    (tmp_path / "a.log").write_bytes(b"x\x00\x01" + gzip.compress(b"fine")[:-3])
    assert find_leaks(tmp_path, [WORD]) == []
