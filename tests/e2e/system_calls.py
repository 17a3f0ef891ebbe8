"""Reads what strace wrote, and finds every name that was given before its bytes were durable."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TRACED", "Call", "find_hasty_names", "list_created", "read_trace"]

TRACED = (
    "trace=openat,write,pwrite64,writev,sendfile,copy_file_range,ftruncate,fsync,fdatasync,"
    "link,linkat,rename,renameat,renameat2,mkdir,mkdirat"
)

_LINE = re.compile(r"(?P<thread>\d+)\s+(?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)")
_QUOTED = re.compile(r'"([^"]*)"')
_DESCRIPTOR = re.compile(r"\b\d+<(/[^>]*)>")

WRITES = {"write", "pwrite64", "writev", "sendfile", "copy_file_range", "ftruncate"}
NAMES = {"link", "linkat", "rename", "renameat", "renameat2"}
SYNCS = {"fsync", "fdatasync"}


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded: its thread, the lines on which it began and ended, its paths.

    ``paths`` are names as given, else what the descriptors stand for.
    """

    thread: int
    began: int
    ended: int
    name: str
    paths: tuple[str, ...]
    makes: bool


def read_trace(path: Path, roots: Sequence[Path]) -> list[Call]:
    """Return the calls on what is below ``roots``, and on their parents, without scratch folders.

    They come in the order in which they ended.
    """
    calls = []
    for thread, began, ended, text in _join_lines(path.read_text().splitlines()):
        match = _CALL.match(text)
        if match is None or int(match["result"]) < 0:
            continue
        arguments = match["arguments"]
        paths = tuple(_QUOTED.findall(arguments)) if match["name"] not in WRITES | SYNCS else ()
        paths = paths or tuple(_DESCRIPTOR.findall(arguments))
        kept = [one for one in paths if _is_below(one, roots)]
        if not kept:
            continue
        makes = match["name"] == "openat" and bool(re.search("O_WRONLY|O_RDWR", arguments))
        calls.append(Call(thread, began, ended, match["name"], paths, makes))
    return calls


def _join_lines(lines: Sequence[str]) -> Iterator[tuple[int, int, int, str]]:
    """Yield (thread, first line, last line, whole call): calls of threads interrupt each other."""
    begun: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, rest = int(match["thread"]), match["rest"]
        if rest.endswith("<unfinished ...>"):
            begun[thread] = number, rest.removesuffix("<unfinished ...>").rstrip()
        elif rest.startswith("<... ") and thread in begun:
            first, start = begun.pop(thread)
            yield thread, first, number, start + rest.partition(" resumed>")[2]
        else:
            yield thread, number, number, rest


def _is_below(path: str, roots: Sequence[Path]) -> bool:
    return "/scratch-" not in path and any(
        path in {str(root), str(root.parent)} or path.startswith(f"{root}/") for root in roots
    )


def list_created(calls: Sequence[Call]) -> list[Call]:
    """Return the calls that gave a finished object its name; beats may be lost and are left out."""
    return [
        call
        for call in calls
        if call.name in NAMES
        and not Path(call.paths[-1]).name.startswith(".tmp-")
        and not call.paths[-1].endswith(".beat")
    ]


def find_hasty_names(calls: Sequence[Call]) -> list[str]:
    """Return what was named before its bytes were synced, or left before its name was.

    A folder that was made is a name too: its parent must be synced before an object is put in it.
    """
    problems = []
    created = list_created(calls)
    for call in created:
        source, target = call.paths[0], call.paths[-1]
        if not _is_synced_before(calls, source, call):
            problems.append(f"{target}: named before its bytes were synced")
        after = min(
            (other.began for other in created if _follows(other, call)), default=float("inf")
        )
        if not _is_synced_between(calls, str(Path(target).parent), call, after):
            problems.append(f"{target}: its folder was not synced before the next was created")
    for made in (call for call in calls if call.name in {"mkdir", "mkdirat"}):
        first = min(
            (other.began for other in created if _follows(other, made)), default=float("inf")
        )
        if not _is_synced_between(calls, str(Path(made.paths[-1]).parent), made, first):
            problems.append(f"{made.paths[-1]}: its parent was not synced before its first object")
    return problems


def _follows(other: Call, call: Call) -> bool:
    return other.thread == call.thread and other.began > call.ended


def _is_synced_before(calls: Sequence[Call], path: str, named: Call) -> bool:
    written = [
        call.ended
        for call in calls
        if path in call.paths and call.began < named.began and (call.name in WRITES or call.makes)
    ]
    last = max(written, default=-1)
    return any(
        call.name in SYNCS and path in call.paths and last < call.began and call.ended < named.began
        for call in calls
    )


def _is_synced_between(calls: Sequence[Call], folder: str, call: Call, before: float) -> bool:
    return any(
        other.name in SYNCS
        and folder in other.paths
        and other.thread == call.thread
        and call.ended < other.began
        and other.ended < before
        for other in calls
    )
