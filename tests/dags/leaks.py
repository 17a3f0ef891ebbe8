"""Find words that must stand nowhere: in every file and database row under a folder, unpacked."""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

__all__ = ["find_leaks", "find_words", "unfold"]

DEEPEST = 5
_BASE64_RUN = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")


def find_leaks(folder: Path, words: Sequence[str]) -> list[str]:
    """Return ``place: word`` for every file and every table of ``*.db`` that holds a word."""
    return find_words(_read_all(folder), words)


def find_words(contents: Iterable[tuple[str, bytes]], words: Sequence[str]) -> list[str]:
    """Return ``place: word`` for every (place, content) that holds a word, packed or not."""
    wanted = [word.encode() for word in words]
    found = []
    for place, content in contents:
        for layer in unfold(content):
            found += [f"{place}: {word.decode()}" for word in wanted if word in layer]
    return sorted(set(found))


def unfold(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """Yield ``content`` and all that is packed in it by gzip, zlib and base64, in any nesting."""
    yield content
    if depth == DEEPEST:
        return
    for inner in {content[:0], *_unpack(content), *_decode(content)} - {b"", content}:
        yield from unfold(inner, depth + 1)


def _read_all(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".db":
            yield from _read_rows(path)
        elif path.is_file():
            yield str(path), path.read_bytes()


def _read_rows(path: Path) -> Iterator[tuple[str, bytes]]:
    with closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            for row in database.execute(f'SELECT * FROM "{name}"'):
                for value in row:
                    if isinstance(value, str | bytes):
                        yield name, value.encode() if isinstance(value, str) else value


def _unpack(content: bytes) -> Iterator[bytes]:
    try:
        if content.startswith(b"\x1f\x8b"):
            yield gzip.decompress(content)
        elif content.startswith(b"\x78"):
            yield zlib.decompress(content)
    except (OSError, EOFError, zlib.error):
        return


def _decode(content: bytes) -> Iterator[bytes]:
    for run in set(_BASE64_RUN.findall(content)):
        bare = run.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        # What stands before it may belong to the alphabet too (as the / of a path does).
        for start in range(4):
            piece = bare[start:]
            piece = piece[: len(piece) // 4 * 4] if len(piece) % 4 == 1 else piece
            try:
                yield base64.b64decode(piece + b"=" * (-len(piece) % 4))
            except binascii.Error:
                continue
