"""A local folder as a store: one creator, whole and durable before visible, nothing stray."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rerank_jobs.errors import JobError
from rerank_jobs.storage import LocalStore, Put, open_store, sync_folder

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


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "root"))


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


@needs_proc
def test_a_folder_that_another_process_made_is_made_durable_once(
    store: LocalStore, calls: list[tuple[str, str]]
) -> None:
    """Who made a folder may have died before it synced the parent: the first put does it."""
    Path(store.location, "left").mkdir(parents=True)
    store.put_if_absent("left/one", b"1")
    assert calls == [("fsync", "root/"), ("fsync", "file"), ("link", "one"), ("fsync", "left/")]
    calls.clear()
    store.put_if_absent("left/two", b"2")
    assert calls == [("fsync", "file"), ("link", "two"), ("fsync", "left/")]


@needs_proc
def test_replacing_is_durable_and_a_beat_is_cheap(
    store: LocalStore, calls: list[tuple[str, str]]
) -> None:
    """``replace`` syncs bytes and folder, ``put`` syncs neither."""
    store.put("name", b"one")
    calls.clear()
    store.replace("name", b"two")
    assert calls == [("fsync", "file"), ("fsync", "root/")]
    calls.clear()
    store.put("name", b"three")
    assert calls == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_a_file_system_without_hard_links_says_what_to_do(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    """The error names the file and the remedy, nothing stands there, no temporary file stays."""
    source = tmp_path / "source"
    source.write_bytes(b"data")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    put: dict[str, Callable[[str], Put]] = {
        "bytes": lambda name: store.put_if_absent(name, b"data"),
        "file": lambda name: store.put_file_if_absent(name, source),
    }
    with pytest.raises(OSError, match=r"no hard links.*another one") as caught:
        put[kind]("folder/name")
    assert caught.value.errno == number
    assert caught.value.filename == f"{store.location}/folder/name"
    assert list(Path(store.location, "folder").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_other_errors_of_a_link_pass_as_they_are(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full, failing or read-only disk is not taken for an object that stands there already."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        store.put_if_absent("name", b"data")
    assert caught.value.errno == number


@pytest.mark.parametrize(
    ("number", "works"), [(errno.EINVAL, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)]
)
def test_a_folder_that_cannot_be_synced_is_used_one_that_fails_is_not(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, works: bool
) -> None:
    """A file system without sync of folders is used as it is; a failing disk is an error."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    if works:
        assert store.put_if_absent("name", b"data") is Put.CREATED
        assert not sync_folder(Path(store.location))
    else:
        with pytest.raises(OSError, match="error"):
            store.put_if_absent("name", b"data")


def test_leftovers_of_killed_writers_are_found_by_age_and_can_be_deleted(
    store: LocalStore, tmp_path: Path
) -> None:
    """A young temporary file is somebody's; an old one is named, with its folder, and removable.

    Its age is that of its name: it may be a link to a file that was written long ago.
    """
    source = tmp_path / "source"
    source.write_bytes(b"old")
    os.utime(source, (1, 1))
    folder = Path(store.location, "folder")
    folder.mkdir(parents=True)
    os.link(source, folder / ".tmp-1")
    assert store.leftovers(60) == []
    assert store.leftovers(0) == ["folder/.tmp-1"]
    store.delete("folder/.tmp-1")
    assert not folder.exists()
    assert store.leftovers(0) == []


def test_a_file_of_another_file_system_is_copied_for_real(tmp_path: Path) -> None:
    """State and output on two file systems: the object is created with a file of its own."""
    memory = Path("/dev/shm")  # noqa: S108 - the one other file system that most machines have
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        source = Path(folder) / "source"
        source.write_bytes(b"data")
        store = LocalStore(str(tmp_path / "root"))
        assert store.put_file_if_absent("name", source) is Put.CREATED
        assert store.put_file_if_absent("name", source) is Put.SAME
        source.write_bytes(b"date")
        assert store.put_file_if_absent("name", source) is Put.OTHER
        assert store.read("name") == b"data"
        assert store.leftovers(0) == []


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


def test_a_location_of_another_kind_is_refused() -> None:
    """A scheme that is not known is refused with a typed error, not taken for a folder's name."""
    with pytest.raises(JobError, match=r"ftp://.*s3://"):
        open_store("ftp://host/state")
