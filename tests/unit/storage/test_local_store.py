"""A local folder as a store: one creator, whole and durable before visible, nothing stray."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerank_jobs.errors import JobError
from rerank_jobs.storage import LocalStore, Put, open_store

RACERS = 4
ROUNDS = 50

RACER = """
import sys
from rerank_jobs.storage import LocalStore
store = LocalStore(sys.argv[1])
for line in sys.stdin:
    print(store.put_if_absent(f"race/{line.strip()}", sys.argv[2].encode()).name, flush=True)
"""

DIES_BEFORE_LINK = """
import os, sys
from pathlib import Path
from rerank_jobs.storage import LocalStore
os.link = lambda *names: os._exit(9)
LocalStore(sys.argv[1]).put_if_absent("folder/name", b"half")
"""

PUTS_ONE = """
import sys
from rerank_jobs.storage import LocalStore
LocalStore(sys.argv[1]).put_if_absent("new/name", b"data")
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "root"))


def test_a_first_put_creates_the_same_is_same_another_is_other(store: LocalStore) -> None:
    """Put-if-absent tells its three outcomes apart and never changes what stands there."""
    assert store.put_if_absent("a/b", b"one") is Put.CREATED
    assert store.put_if_absent("a/b", b"one") is Put.SAME
    assert store.put_if_absent("a/b", b"two") is Put.OTHER
    assert store.read("a/b") == b"one"


def test_putting_a_file_tells_the_same_three_outcomes_and_keeps_the_source(
    store: LocalStore, tmp_path: Path
) -> None:
    """A file is put like bytes are, and its source stays where it is, with its bytes."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    assert store.put_file_if_absent("a/b", one) is Put.CREATED
    assert store.put_file_if_absent("a/b", one) is Put.SAME
    assert store.put_file_if_absent("a/b", two) is Put.OTHER
    assert (store.read("a/b"), one.read_bytes(), two.read_bytes()) == (b"one", b"one", b"two")


def test_a_file_from_another_file_system_is_copied(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the source cannot be linked its bytes are copied, and creating is still exclusive."""
    source = tmp_path / "source"
    source.write_bytes(b"bytes")
    link = os.link

    def only_inside(one: Path, other: Path) -> None:
        if one == source:
            raise OSError(18, "cross-device link")
        link(one, other)

    monkeypatch.setattr(os, "link", only_inside)
    assert store.put_file_if_absent("name", source) is Put.CREATED
    assert store.fetch("name").stat().st_ino != source.stat().st_ino
    assert store.put_file_if_absent("name", source) is Put.SAME


def test_of_many_processes_exactly_one_creates(store: LocalStore) -> None:
    """In each of 50 races between 4 processes there is one creator, and its bytes stand there."""
    Path(store.location).mkdir()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, store.location, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(RACERS)
    ]
    try:
        for turn in range(ROUNDS):
            for racer in racers:
                assert racer.stdin
                racer.stdin.write(f"{turn}\n")
            for racer in racers:
                assert racer.stdin
                racer.stdin.flush()
            outcomes = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
            assert sorted(outcomes) == ["CREATED", *["OTHER"] * (RACERS - 1)]
            winner = outcomes.index("CREATED")
            assert store.read(f"race/{turn}") == str(winner).encode()
    finally:
        for racer in racers:
            racer.communicate()


def test_a_reader_sees_nothing_or_the_whole_object(store: LocalStore, tmp_path: Path) -> None:
    """A reader that polls while objects are created never reads a part of one."""
    data = os.urandom(1 << 20)
    source = tmp_path / "source"
    source.write_bytes(data)
    seen: set[bytes | None] = set()
    finished = threading.Event()

    def poll() -> None:
        turn = 0
        while not finished.is_set() and turn < 20:
            try:
                found = store.read(f"poll/{turn}")
            except FileNotFoundError:
                seen.add(None)
            else:
                seen.add(found)
                turn += 1

    reader = threading.Thread(target=poll)
    reader.start()
    for turn in range(20):
        if turn % 2:
            store.put_if_absent(f"poll/{turn}", data)
        else:
            store.put_file_if_absent(f"poll/{turn}", source)
    reader.join(timeout=10)
    finished.set()
    assert seen - {None} == {data}


def test_what_a_killed_writer_leaves_is_neither_listed_nor_in_the_way(store: LocalStore) -> None:
    """A process that dies before its link leaves a temporary file that no listing shows."""
    died = subprocess.run([sys.executable, "-c", DIES_BEFORE_LINK, store.location], check=False)
    assert died.returncode == 9
    assert len(list(Path(store.location, "folder").iterdir())) == 1
    assert store.entries() == []
    assert not store.exists("folder/name")
    assert store.put_if_absent("folder/name", b"whole") is Put.CREATED


def test_a_failed_link_leaves_no_temporary_file(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error on the way reaches the caller, and nothing of the attempt stays behind."""

    def refuse(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="no space"):
        store.put_if_absent("folder/name", b"data")
    assert list(Path(store.location, "folder").iterdir()) == []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record each link and each fsync, by whether it is of a file or of which folder."""
    noted: list[tuple[str, str]] = []
    link, fsync = os.link, os.fsync

    def note_link(one: Path, other: Path) -> None:
        noted.append(("link", Path(other).name))
        link(one, other)

    def note_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        noted.append(("fsync", f"{path.name}/" if folder else "file"))
        fsync(descriptor)

    monkeypatch.setattr(os, "link", note_link)
    monkeypatch.setattr(os, "fsync", note_fsync)
    return noted


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")


@needs_proc
def test_bytes_are_durable_before_the_name_and_the_name_before_the_return(
    store: LocalStore, calls: list[tuple[str, str]]
) -> None:
    """The order is: new folders, fsync of the file, link, fsync of its folder."""
    store.put_if_absent("new/name", b"data")
    made, rest = calls[:-3], calls[-3:]
    assert set(made) == {("fsync", "root/"), ("fsync", f"{Path(store.location).parent.name}/")}
    assert rest == [("fsync", "file"), ("link", "name"), ("fsync", "new/")]


@needs_proc
def test_a_put_file_is_durable_in_the_same_order(
    store: LocalStore, tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    """A linked source is synced too: it may be in the page cache only."""
    source = tmp_path / "source"
    source.write_bytes(b"data")
    store.put_file_if_absent("name", source)
    assert calls[-3:] == [("fsync", "file"), ("link", "name"), ("fsync", "root/")]


@needs_proc
def test_what_stands_there_already_is_made_durable_too(
    store: LocalStore, calls: list[tuple[str, str]]
) -> None:
    """SAME promises what CREATED does: its creator may have died before it synced the folder."""
    store.put_if_absent("name", b"data")
    calls.clear()
    assert store.put_if_absent("name", b"data") is Put.SAME
    assert calls[-1] == ("fsync", "root/")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_system_calls_come_in_that_order(store: LocalStore, tmp_path: Path) -> None:
    """The kernel sees fsync of the file, link, fsync of the folder: nothing in between is lost."""
    trace = tmp_path / "trace"
    command = [sys.executable, "-c", PUTS_ONE, store.location]
    wanted = "trace=fsync,fdatasync,link,linkat"
    ran = subprocess.run(
        ["strace", "-f", "-y", "-e", wanted, "-o", str(trace), *command],
        check=False,
        capture_output=True,
    )
    if ran.returncode or not trace.read_text():
        pytest.skip("tracing is not permitted here")
    lines = re.findall(r"(fsync|fdatasync|linkat|link)\((.*)\)\s+= 0", trace.read_text())
    names = [name.removesuffix("at") for name, _ in lines]
    assert names[-3:] == ["fsync", "link", "fsync"]
    assert ".tmp-" in lines[-3][1]
    assert lines[-1][1].endswith("/new>")


def test_deleting_removes_empty_folders_but_never_the_root(store: LocalStore) -> None:
    """Folders go with their last object, the root stays, and a missing object is no error."""
    root = Path(store.location)
    store.put_if_absent("a/b/one", b"1")
    store.put_if_absent("a/two", b"2")
    store.delete("a/b/one")
    assert not (root / "a/b").exists()
    assert (root / "a/two").exists()
    store.delete("a/two")
    assert root.is_dir()
    assert list(root.iterdir()) == []
    store.delete("a/two")
    assert root.is_dir()


def test_entries_are_sorted_by_name_with_sizes(store: LocalStore) -> None:
    """A listing names every object below the prefix, in order; a missing folder holds none.

    Each has its size, and the instant at which it was put.
    """
    begun = time.time()
    for name in ("b/2", "a", "b/10", "b/c/1"):
        store.put_if_absent(name, name.encode())
    found = store.entries()
    sizes = [(entry.name, entry.size) for entry in found]
    assert sizes == [(name, len(name)) for name in ("a", "b/10", "b/2", "b/c/1")]
    # The clock of a file system may tick up to 10 ms behind.
    assert all(begun - 0.02 <= entry.modified <= time.time() for entry in found)
    assert [entry.name for entry in store.entries("b/c")] == ["b/c/1"]
    assert store.entries("nowhere") == []


def test_a_folder_that_cannot_be_listed_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing never comes back short: segments that are not seen would be paid again."""
    store.put_if_absent("seg/one", b"1")
    scan = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("seg"):
            raise PermissionError(13, "permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        store.entries()


def test_a_beat_replaces_what_was_there(store: LocalStore) -> None:
    """``put`` replaces, and leaves nothing beside the object."""
    store.put("beat", b"one")
    store.put("beat", b"two")
    assert store.read("beat") == b"two"
    assert [entry.name for entry in store.entries()] == ["beat"]


def test_fetching_gives_the_file_or_says_that_there_is_none(store: LocalStore) -> None:
    """A missing object is a ``FileNotFoundError``, for reading and for fetching."""
    store.put_if_absent("name", b"data")
    assert store.fetch("name").read_bytes() == b"data"
    for read in (store.fetch, store.read):
        with pytest.raises(FileNotFoundError):
            read("other")


def test_a_location_of_another_kind_is_refused() -> None:
    """A scheme that is not known is refused with a typed error, not taken for a folder's name."""
    with pytest.raises(JobError, match=r"ftp://.*s3://"):
        open_store("ftp://host/state")
