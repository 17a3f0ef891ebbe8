"""The job file as values: secrets that stay secret, what identifies a plan, where things lie."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_jobs.config import (
    Endpoint,
    Job,
    Secret,
    check_partition_key,
    read_api_key,
    read_store_password,
)
from rerank_jobs.errors import JobError, KeyStop
from rerank_jobs.job_file import load_job, parse_job
from rerank_jobs.places import is_inside
from rerank_jobs.plan.identity import scorer_id
from rerank_jobs.secret import HeldKey
from tests.unit.cli.kit import JOB, KEY_CANARY, merge


def parse(changes: dict[str, Any] | None = None) -> Job:
    """Return the small job with changes."""
    return parse_job(merge(JOB, changes or {}), base=Path("/jobs"))


def test_a_secret_shows_nowhere() -> None:
    """No repr, str, format, error or pickle of a secret holds the key; ``reveal`` does."""
    secret = Secret(f"  {KEY_CANARY}\n")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!s:>60}", repr([secret])]
    shown += ["%s %r" % (secret, secret), repr({"key": secret})]  # noqa: UP031 - loggers do this
    assert all(KEY_CANARY not in text for text in shown)
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.deepcopy(secret)
    assert secret.reveal() == KEY_CANARY


def test_a_blank_secret_is_refused() -> None:
    """White space is no key."""
    with pytest.raises(ValueError, match="blank"):
        Secret(" \n")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"budget": {"max_usd": 1}},
        {"endpoint": {"requests_per_minute": 7, "max_concurrency": 2}},
        {"endpoint": {"timeout_seconds": 5, "patience_seconds": 5, "usd_per_search": 1}},
        {"endpoint": {"api_key_env": "OTHER_KEY"}},
        {"endpoint": {"limit_store": "redis://h", "limit_name": "a", "requests_per_minute": 9}},
        {"failures": {"max_failed_fraction": 0.5}},
        {"ledger": {"max_unsaved_replies": 1}},
        {"memory": "2GB"},
        {"output": {"path": "elsewhere"}},
        {"state": {"path": "elsewhere.state"}},
    ],
)
def test_what_changes_no_byte_changes_no_plan(changes: dict[str, Any]) -> None:
    """Budget, pace, gates, sealing, memory and places leave policy and scorer as they are."""
    base, other = parse(), parse(changes)
    assert base.policy() == other.policy()
    assert scorer_id(base.endpoint, "1") == scorer_id(other.endpoint, "1")


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"columns": {"document": ["text", "note"]}}},
        {"input": {"columns": {"first_stage_rank": None}}},
        {"input": {"on_bad_rows": "fail"}},
        {"candidates": {"top_k": 10}},
        {"context": {"tokens": 512}},
        {"context": {"long_documents": "truncate"}},
        {"context": {"overlap_tokens": 7}},
        {"failures": {"on_failed": "keep_first_stage"}},
        {"reuse": {"mode": "strict"}},
        {"reuse": {"max_age_days": 1}},
        {"output": {"replace": True}},
    ],
)
def test_what_changes_bytes_changes_the_policy(changes: dict[str, Any]) -> None:
    """Columns, cut, context, reuse and the place of failed documents are parts of a plan."""
    assert parse().policy() != parse(changes).policy()


@pytest.mark.parametrize(
    "changes",
    [{"model": "cohere/rerank-4"}, {"revision": "2"}, {"url": "https://openrouter.ai/api/v1"}],
)
def test_what_answers_differently_is_another_scorer(changes: dict[str, str]) -> None:
    """Model, revision and origin make another scorer, whose scores are never mixed."""
    base, other = parse(), parse({"endpoint": changes})
    assert scorer_id(base.endpoint, "1") != scorer_id(other.endpoint, "1")


def test_relative_paths_start_at_the_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same job file means the same places from any working directory."""
    (tmp_path / "jobs").mkdir()
    path = tmp_path / "jobs" / "a.yaml"
    path.write_text("name: a\ninput: {path: in, columns: {query_id: q}}\noutput: {path: ../out}\n")
    monkeypatch.chdir(tmp_path / "jobs")
    here = load_job(Path("a.yaml"))
    monkeypatch.chdir("/")
    there = load_job(path)
    for job in (here, there):
        assert job.input_location("_all") == str(tmp_path / "jobs" / "in")
        assert job.output_root == str(tmp_path / "out")
        assert job.state_root == str(tmp_path / "out.state")
        assert job.rejected_root == str(tmp_path / "out.rejected")


def test_home_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may begin with ~."""
    monkeypatch.setenv("HOME", "/home/ann")
    assert parse({"output": {"path": "~/out"}}).output_root == "/home/ann/out"


def test_the_template_makes_the_folder() -> None:
    """The key stands in the folder as the template says; no key, no folder."""
    job = parse(
        {"partition": {"template": "region=eu/ds={key}"}, "input": {"path": "a/{partition}/b"}}
    )
    assert job.partition_folder("2026-11-22") == "region=eu/ds=2026-11-22"
    assert job.partition_folder("_all") == ""
    assert job.input_location("2026-11-22") == "/jobs/a/region=eu/ds=2026-11-22/b"


@given(st.text(max_size=20))
def test_a_partition_key_never_leaves_its_folder(key: str) -> None:
    """Whatever is accepted as a key is one visible path component."""
    try:
        accepted = check_partition_key(key)
    except JobError:
        return
    folder = Path("/root") / accepted
    assert folder.parent == Path("/root")
    assert folder.resolve() == folder
    assert not folder.name.startswith(".")


@given(st.text(max_size=30))
def test_any_text_as_a_job_file_is_answered(text: str) -> None:
    """Text that is no job raises a JobError of one line, whatever it is."""
    path = Path("/jobs/a.yaml")
    from rerank_jobs.job_text import parse_yaml

    try:
        data = parse_yaml(text, path)
        if isinstance(data, dict):
            parse_job(data, base=path.parent)
    except JobError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most texts raise nothing here


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 10**9), ("1.5 GiB", 1.5e9), ("200m", 2e8), (10**9, 10**9), ("1000000000", 10**9)],
)
def test_memory_is_read_as_people_write_it(text: object, size: float) -> None:
    """Sizes may carry a unit in any case, with or without B."""
    assert parse({"memory": text}).memory == int(size)


@pytest.mark.parametrize(
    ("location", "folder", "inside"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("s3://x/a", "s3://x", True)],
)
def test_inside_is_told_by_whole_names(location: str, folder: str, *, inside: bool) -> None:
    """A common beginning of two names is not enough to lie inside."""
    assert is_inside(location, folder) is inside


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost", "[::1]:80"])
def test_a_local_endpoint_needs_no_key(host: str) -> None:
    """A server on this machine may do without a key; one elsewhere may not."""
    assert read_api_key(Endpoint(url=f"http://{host}/api/v1")) is None
    with pytest.raises(KeyStop, match=r"127\.0\.0\.1\.example"):
        read_api_key(Endpoint(url="http://127.0.0.1.example/api/v1"))


def test_the_embedded_endpoint_never_sees_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the environment stays there where the endpoint is embedded."""
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY_CANARY)
    assert read_api_key(Endpoint()) is None
    key = read_api_key(Endpoint(url="https://openrouter.ai/api/v1"))
    assert key is not None
    assert key.reveal() == KEY_CANARY


def test_prices_and_paces_have_honest_defaults() -> None:
    """Embedded: free and unpaced. Remote: the list price and 1,000 requests a minute."""
    local, remote = Endpoint(), Endpoint(url="https://openrouter.ai/api/v1")
    assert (local.price_usd, local.pace) == (0.0, None)
    assert (remote.price_usd, remote.pace) == (0.001, 1000)


def test_a_share_is_a_part_of_every_limit() -> None:
    """Two processes with half a share each together have the limit; none has less than one send."""
    half = Endpoint(
        url="https://openrouter.ai/api/v1",
        requests_per_minute=101,
        tokens_per_minute=9000,
        share=0.5,
    )
    assert (half.pace, half.token_pace) == (50, 4500)
    assert Endpoint(url="https://openrouter.ai/api/v1", share=0.25).pace == 250
    assert Endpoint(requests_per_minute=1, share=0.1).pace == 1


def test_tasks_side_by_side_divide_a_limit_and_never_exceed_it() -> None:
    """Each of n takes its n-th of the share; one in a store is shared whole; keys stay held."""
    endpoint = Endpoint(requests_per_minute=1000, tokens_per_minute=90_000, share=0.5)
    held = endpoint.hold_key(HeldKey("a connection", Secret(KEY_CANARY)))
    assert endpoint.take_part(1) is endpoint
    part = held.take_part(3)
    assert (part.pace, part.token_pace, part.held_key) == (166, 15_000, held.held_key)
    assert endpoint.pace == 500
    assert Endpoint().take_part(8).pace is None
    stored = Endpoint(requests_per_minute=1000, limit_store="redis://127.0.0.1:6379/0")
    assert stored.take_part(4) is stored
    for limited in (
        Endpoint(requests_per_minute=3),
        Endpoint(requests_per_minute=30, limit_window_seconds=6),
    ):
        with pytest.raises(JobError, match="cannot be divided among 4 processes"):
            limited.take_part(4)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("2h", 7200), ("1.5d", 129_600), ("45", 45), (30, 30)]
)
def test_a_runtime_is_read_as_people_write_it(text: object, seconds: float) -> None:
    """Times may carry a unit: seconds, minutes, hours or days."""
    assert parse({"max_runtime": text}).max_runtime == seconds


@pytest.mark.parametrize("text", ["0", "-1h", "soon", True, 0])
def test_a_runtime_must_be_a_time(text: object) -> None:
    """Nothing that is no time above zero is taken for one."""
    with pytest.raises(JobError, match="max_runtime"):
        parse({"max_runtime": text})


STORE = "redis://limits.example:6379/1"


@pytest.mark.parametrize(
    "store",
    [
        STORE,
        "redis://127.0.0.1",
        "rediss://rerank@limits.example:6380",
        "redis://[::1]:6379/0",
        "redis://limits.example/",
    ],
)
def test_a_limit_store_is_an_address_without_a_password(store: str) -> None:
    """Host, port, database and user are taken as they stand."""
    assert Endpoint(url="https://openrouter.ai/api/v1", limit_store=store).limit_store == store


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"limit_store": f"redis://:{KEY_CANARY}@limits.example"}, "without a password"),
        ({"limit_store": f"redis://me:{KEY_CANARY}@limits.example:1/0"}, "without a password"),
        ({"limit_store": "memcached://limits.example"}, "limit_store must be"),
        (
            {"limit_store": STORE, "limit_store_password_env": f"{KEY_CANARY}!"},
            "never the password",
        ),
        ({"limit_store": STORE, "limit_name": "a b"}, "limit_name"),
        ({"limit_name": "account"}, "need a limit_store"),
        ({"limit_store_password_env": "LIMITS"}, "need a limit_store"),
        ({"requests_per_minute": 5, "limit_window_seconds": 6}, "not one of 5 requests"),
    ],
)
def test_a_limit_that_cannot_be_shared_is_refused(keys: dict[str, Any], says: str) -> None:
    """The message says what is wrong, and repeats no value that may be a password."""
    with pytest.raises(JobError, match=says) as error:
        parse({"endpoint": {"url": "https://openrouter.ai/api/v1", **keys}})
    assert KEY_CANARY not in str(error.value)


def test_an_unpaced_endpoint_has_no_limit_to_share() -> None:
    """The embedded one shares a limit only where the job gives it one."""
    with pytest.raises(ValueError, match="requests_per_minute"):
        Endpoint(limit_store=STORE)
    assert Endpoint(limit_store=STORE, requests_per_minute=60).pace == 60


def test_the_stores_password_comes_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a secret once it is read; a job that names a variable that is not set stops."""
    keys = {"limit_store": STORE, "limit_store_password_env": "LIMITS"}
    endpoint = parse({"endpoint": {"url": "https://openrouter.ai/api/v1", **keys}}).endpoint
    with pytest.raises(KeyStop, match="LIMITS"):
        read_store_password(endpoint)
    monkeypatch.setenv("LIMITS", KEY_CANARY)
    password = read_store_password(endpoint)
    assert password is not None
    assert (password.reveal(), repr(password)) == (KEY_CANARY, "Secret(***)")


def test_roots_in_a_bucket_stand_beside_each_other() -> None:
    """A location is kept as written, without a slash at its end; its siblings are made of it."""
    job = parse({"output": {"path": "s3://bucket/out/"}})
    assert job.output_root == "s3://bucket/out"
    assert job.rejected_root == "s3://bucket/out.rejected"
    assert job.state_root == "s3://bucket/out.state"


@pytest.mark.parametrize(
    ("output", "state", "word"),
    [
        ("s3://", None, "names no bucket"),
        ("s3://bucket", None, "needs a folder"),
        ("out", "s3:///", "names no bucket"),
        ("s3://bucket/out", "s3://bucket", "inside each other"),
        ("s3://bucket/out", "s3://bucket/out/state/", "inside each other"),
    ],
)
def test_roots_that_cannot_be_are_refused(output: str, state: str | None, word: str) -> None:
    """No root is a whole account, and none lies in another."""
    parts = {"output": {"path": output}, "state": {"path": state}}
    with pytest.raises(JobError, match=word):
        parse(parts)
