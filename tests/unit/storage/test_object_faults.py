"""S3 with lost replies, conflicts and refusals: each outcome told right, no secret in any error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_jobs.errors import JobError
from rerank_jobs.storage import ObjectStore, Put, open_store
from rerank_jobs.storage import objects as objects_module
from tests.s3_server import FAULTS, S3Server

ONE, MANY = "1", "4"

FETCHES_AND_DIES = """
import os, sys
from rerank_jobs.storage import open_store
print(open_store(sys.argv[1]).fetch("name"), flush=True)
os._exit(9)
"""

FETCHES_IN_A_FORK = """
import os, sys
from rerank_jobs.storage import open_store
from rerank_jobs.storage.scratch import process_folder
mine = process_folder()
if os.fork() == 0:
    theirs = process_folder()
    assert theirs != mine and theirs.is_dir()
    sys.exit(0)
assert os.wait()[1] == 0
assert mine.is_dir()
assert list(mine.parent.iterdir()) == [mine]
"""

PUTS_A_LARGE_FILE = """
import sys
from pathlib import Path
from rerank_jobs.storage import open_store
def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024
store, source = open_store(sys.argv[1]), Path(sys.argv[2])
store.put_if_absent("small", b"1")
before = anonymous()
put = store.put_file_if_absent
print(put("large", source).name, put("large", source).name)
store.fetch("large")
print(anonymous() - before)
"""


@pytest.fixture
def location(bucket: str) -> str:
    return f"{bucket}/root"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "CONFLICT_PAUSES", (0.0, 0.0, 0.0))


def open_trying(monkeypatch: pytest.MonkeyPatch, location: str, attempts: str) -> ObjectStore:
    """Open a store whose HTTP client sends a request at most ``attempts`` times."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
    return ObjectStore(location)


def put(store: ObjectStore, folder: Path, kind: str) -> Put:
    """Create ``name`` with the bytes ``ours``, from memory or from a file."""
    if kind == "bytes":
        return store.put_if_absent("name", b"ours")
    source = folder / "source"
    source.write_bytes(b"ours")
    return store.put_file_if_absent("name", source)


@pytest.mark.parametrize("kind", ["bytes", pytest.param("file", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("faults", "attempts", "wanted"),
    [
        (["drop"], ONE, Put.CREATED),  # read back after the connection broke
        (["drop"], MANY, Put.SAME),  # sent again, and answered 412 about itself
        (["drop"] * 4, MANY, Put.CREATED),
        (["drop_before"], MANY, Put.CREATED),
        (["500_after"], ONE, Put.CREATED),
        (["500_after"], MANY, Put.SAME),
        (["500_before"], MANY, Put.CREATED),
        (["503_before"], MANY, Put.CREATED),
        (["412_after"], ONE, Put.SAME),
        (["409"], ONE, Put.CREATED),  # nothing came of the other create: tried again
        (["409"] * 3, ONE, Put.CREATED),
        (["409", "drop"], ONE, Put.CREATED),
    ],
)
def test_an_own_create_is_recognised_whatever_the_reply_was(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    s3: S3Server,
    location: str,
    kind: str,
    faults: list[str],
    attempts: str,
    wanted: Put,
) -> None:
    """Where nobody else writes, a put that took effect is never told as somebody else's."""
    store = open_trying(monkeypatch, location, attempts)
    s3.inject(*faults)
    assert put(store, tmp_path, kind) is wanted
    assert s3.count_left() == 0
    assert store.read("name") == b"ours"


@pytest.mark.parametrize("kind", ["bytes", pytest.param("file", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", ["drop", "drop_before", "500_after", "500_before", "409", "403"])
def test_what_another_created_is_theirs_whatever_the_reply_was(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    s3: S3Server,
    location: str,
    kind: str,
    fault: str,
) -> None:
    """A create that meets another's object is OTHER also where its own reply is lost."""
    store = open_trying(monkeypatch, location, ONE)
    store.put_if_absent("name", b"them")
    s3.inject(fault)
    assert put(store, tmp_path, kind) is Put.OTHER
    assert store.read("name") == b"them"


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (["drop_before"], "the connection broke"),
        (["500_before"], "500 Internal Server Error, InternalError"),
        (["503_before"], "503 Service Unavailable, SlowDown"),
        (["403"], "access denied"),
        (["409"] * 4, "another create is in flight"),
    ],
)
def test_a_create_without_effect_is_an_error_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, location: str, faults: list[str], error: str
) -> None:
    """Nothing stands there afterwards, the error says why, and the next try creates."""
    store = open_trying(monkeypatch, location, ONE)
    s3.inject(*faults)
    with pytest.raises(OSError, match=error) as caught:
        store.put_if_absent("name", b"ours")
    assert caught.value.filename == f"{location}/name"
    assert isinstance(caught.value, PermissionError) == (faults == ["403"])
    assert not store.exists("name")
    assert store.put_if_absent("name", b"ours") is Put.CREATED


def test_a_create_that_cannot_be_read_back_is_an_error_not_an_outcome(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, location: str
) -> None:
    """With the reply and the read-back lost nothing is claimed; the next try recognises it."""
    store = open_trying(monkeypatch, location, ONE)
    s3.inject("drop")
    s3.inject("500_before", method="GET")
    with pytest.raises(OSError, match="the connection broke"):
        store.put_if_absent("name", b"ours")
    assert store.put_if_absent("name", b"ours") is Put.SAME


def test_a_reply_that_comes_too_late_is_read_back(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, location: str
) -> None:
    """A create whose reply outlasts the time limit is found to be done, and is not repeated."""
    monkeypatch.setattr(objects_module, "REQUEST_SECONDS", 0.3)
    store = open_trying(monkeypatch, location, MANY)
    s3.list_requests()
    s3.inject("late")
    assert store.put_if_absent("name", b"ours") is Put.CREATED
    assert [line.split()[0] for line in s3.list_requests()] == ["PUT", "GET"]


def test_an_object_that_changes_while_it_is_fetched_is_fetched_again(
    monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """A copy is never half of one version and half of another."""
    monkeypatch.setattr(objects_module, "BLOCK_BYTES", 4)
    store = ObjectStore(location)
    store.put("name", b"oldoldold")
    read_blocks = store._read_blocks

    def change_meanwhile(name: str, meta: object) -> object:
        blocks = read_blocks(name, meta)
        yield next(blocks)
        if store.read("name") == b"oldoldold":
            store.put("name", b"newnewnew")
        yield from blocks

    monkeypatch.setattr(store, "_read_blocks", change_meanwhile)
    assert store.fetch("name").read_bytes() == b"newnewnew"


def test_a_fetched_copy_is_made_once_and_does_not_change(location: str, s3: S3Server) -> None:
    """The second fetch reads no bytes; after a replacement both versions stand side by side."""
    store = ObjectStore(location)
    store.put("name", b"one")
    first = store.fetch("name")
    s3.list_requests()
    assert store.fetch("name") == first
    assert [line.split()[0] for line in s3.list_requests()] == ["HEAD"]
    store.put("name", b"two")
    assert (store.fetch("name").read_bytes(), first.read_bytes()) == (b"two", b"one")


@pytest.mark.slow
def test_copies_of_a_killed_process_are_removed_by_the_next(tmp_path: Path, location: str) -> None:
    """Copies may hold text: they do not outlive their process longer than until the next."""
    ObjectStore(location).put("name", b"canary")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", FETCHES_AND_DIES, location]
    copies = []
    for _ in range(2):
        died = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        copies.append(Path(died.stdout.strip()))
    assert [copy.exists() for copy in copies] == [False, True]
    assert copies[1].is_relative_to(tmp_path)
    command = [sys.executable, "-c", "from rerank_jobs.storage.scratch import process_folder as f"]
    subprocess.run([*command[:-1], command[-1] + "; f()"], env=environment, check=True)
    (folder,) = tmp_path.iterdir()
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_forked_process_has_copies_of_its_own(tmp_path: Path) -> None:
    """A child neither uses its parent's folder nor removes it at its end."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", FETCHES_IN_A_FORK], env=environment, check=True)


@pytest.mark.parametrize("fault", sorted({*FAULTS} - {"ignore_condition", "late"}))
def test_no_error_holds_a_key_or_an_address(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, location: str, fault: str
) -> None:
    """Errors name the object and a reason, and nothing of the request, whatever failed."""
    store = open_trying(monkeypatch, location, ONE)
    s3.inject(*[fault] * 8, method="PUT")
    s3.inject(*[fault] * 8, method="GET")
    s3.inject(*[fault] * 8, method="HEAD")
    s3.inject(*[fault] * 8, method="POST")
    for call in (
        lambda: store.put("name", b"1"),
        lambda: store.read("name"),
        lambda: store.fetch("name"),
        lambda: store.entries("name"),
        lambda: store.delete("name"),
        lambda: store.exists("name"),
        lambda: store.put_if_absent("name", b"2"),
    ):
        with pytest.raises((OSError, JobError)) as caught:
            call()
        said = f"{caught.value} {caught.value!r} {store!r}"
        assert location in said
        assert s3.url not in said
        assert not any(value in said for name, value in s3.env.items() if "KEY" in name)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_refused_listing_is_a_refusal(s3: S3Server, location: str) -> None:
    """The client has no error class for it; ours is a ``PermissionError`` like any other."""
    s3.inject("403", method="GET")
    with pytest.raises(PermissionError, match="access denied"):
        open_store(location).entries()


def test_a_bucket_that_does_not_exist_is_told_as_that(s3: S3Server) -> None:
    """Writing, listing and reading say what to do, where an absent object would be no error."""
    store = open_store("s3://no-such-bucket/root")
    for call in (
        lambda: store.put_if_absent("name", b"1"),
        lambda: store.put("name", b"1"),
        lambda: store.read("name"),
        store.entries,
    ):
        with pytest.raises(JobError, match=r"s3://no-such-bucket/root: .*create it"):
            call()
    assert s3.count_left() == 0


def test_a_server_that_is_not_there_is_an_error_within_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refused connection is told as one; so is an endpoint that may not be spoken to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    store = open_trying(monkeypatch, "s3://bucket/root", ONE)
    with pytest.raises(OSError, match="connection refused"):
        store.read("name")


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("s3://", "names no bucket"),
        ("s3:///folder", "names no bucket"),
        ("s3://bucket/a//b", "empty"),
        ("s3://bucket/../b", "'..'"),
        ("s3a://bucket/a", "use s3://"),
        ("file:///a", "local path"),
        ("az://container/a", "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_a_location_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, location: str, word: str
) -> None:
    """Each is a typed error that says what to write."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(JobError, match=word):
        open_store(location)


def test_a_location_with_a_secret_is_refused_without_showing_it() -> None:
    """Keys in a location would be printed with it: they are refused, and not repeated."""
    for location in ("s3://key:kiwicanary@bucket/a", "az://c/a?sig=kiwicanary"):
        with pytest.raises(JobError, match="environment") as caught:
            open_store(location)
        assert "kiwicanary" not in str(caught.value)


@pytest.mark.slow
def test_a_large_file_is_not_held_in_memory(tmp_path: Path, location: str) -> None:
    """200 MB are put, compared and fetched within 80 MB of memory of the process's own."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(200 << 20)
    command = [sys.executable, "-c", PUTS_A_LARGE_FILE, location, str(source)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    outcome, megabytes = ran.stdout.splitlines()
    print(f"{megabytes} MB for 200 MB")
    assert outcome == "CREATED SAME"
    assert int(megabytes) <= 80


def test_other_clouds_open_by_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's and Azure's locations make stores without touching the network."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for location in ("gs://bucket/folder", "az://container/folder"):
        store = open_store(location)
        assert (store.location, repr(store)) == (location, f"ObjectStore({location!r})")
