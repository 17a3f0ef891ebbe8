"""The script in a real Redis: the same as its model, and what the way to it survives."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import itertools
import math
import random
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank_jobs.config import Secret
from rerank_jobs.errors import LimitStop
from rerank_jobs.score.limit_store import RedisLimitStore, SharedLimit, make_script
from rerank_jobs.score.shared_pacing import Return, StoreAway
from tests.redis_server import find_port, run_redis
from tests.unit.score.limit_model import MICRO, LimitModel, Rates

PASSWORD = "canary-password"  # noqa: S105 - shown nowhere is what is tested
NUMBERS = itertools.count()


def make_limit(port: int, **changes: Any) -> SharedLimit:
    """Return a limit with a name of its own: 100 requests in 6 s."""
    limit = SharedLimit(
        host="127.0.0.1",
        port=port,
        database=0,
        name=f"test:{{{next(NUMBERS)}}}",
        requests=100,
        tokens=None,
        window_seconds=6.0,
        life_seconds=12.0,
    )
    return replace(limit, **changes)


class ClockedRedis:
    """The script with the clock handed in, by a plain synchronous connection."""

    def __init__(self, port: int) -> None:
        import redis

        self._redis = redis.Redis(port=port)
        self._script = self._redis.register_script(
            make_script("local now = tonumber(table.remove(ARGV))")
        )
        self._keys = [f"model:{{{next(NUMBERS)}}}:{part}" for part in ("s", "c", "w", "r")]

    def exchange(
        self, now: int, rates: Rates, booked: str, spaced: int, returns: list[Return], run: str
    ) -> int | None:
        window, life = int(rates.window_seconds * MICRO), int(rates.life_seconds * MICRO)
        limits = (rates.requests or 0, rates.tokens or 0)
        arguments: list[str | int] = [run, 0, window, life, *limits, booked, spaced]
        for one in returns:
            age = -1 if one.age_seconds is None else int(one.age_seconds * MICRO)
            arguments += [one.credit, age, -1 if one.counted is None else one.counted]
        wait: int | None = self._script(keys=self._keys, args=[*arguments, now])
        return wait

    def close(self) -> None:
        self._redis.delete(*self._keys)
        self._redis.close()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), limit=st.integers(1, 60), tokens=st.integers(20, 400))
def test_the_script_does_what_its_model_does(
    redis_port: int, seed: int, limit: int, tokens: int
) -> None:
    """Bookings, returns of all kinds, other rates, a restart: both name the same waits."""
    rng = random.Random(seed)
    script, model = ClockedRedis(redis_port), LimitModel()
    now, run = 1_790_000_000_000_000, "a"
    booked: list[str] = []
    for number in range(60):
        now += rng.choice([0, rng.randint(0, 300_000), rng.randint(0, 20_000_000)])
        rates = Rates(
            rng.choice([limit, limit, limit + 3, None]), rng.choice([tokens, tokens, None]), 6, 12
        )
        returns = [make_return(rng, credit) for credit in rng.sample(booked, len(booked) // 3)]
        credit = f"p-{number}:{rng.randint(0, tokens + 20)}"
        if rng.random() < 0.2:
            credit = rng.choice(["", *booked[-3:]])  # only returns, or asked again
        if rng.random() < 0.01:
            run += "b"
        spaced = rng.randint(0, 50)
        wait = script.exchange(now, rates, credit, spaced, returns, run)
        expected = model.exchange(now, rates, credit, spaced, returns, run=run)
        assert (wait is None) == (expected is None)
        # The script keeps whole microseconds.
        assert abs((wait or 0) - (expected or 0)) <= 20
        booked = [*booked[-30:], *([credit] if credit else [])]
    script.close()


def make_return(rng: random.Random, credit: str) -> Return:
    age = rng.choice([None, 0.0, rng.uniform(0, 8)])
    return Return(credit, age, rng.choice([None, rng.randint(0, 50)]))


def test_a_limit_leaves_nothing_behind(redis_port: int) -> None:
    """Every key that the script writes ends by itself."""
    import redis

    limit = make_limit(redis_port)
    ask(limit, "a-0:5", "a-1:5")
    with redis.Redis(port=redis_port) as client:
        keys = client.keys(f"{limit.name}*".replace("{", "\\{"))
        assert len(keys) == 3  # nobody waits
        assert all(0 < client.pttl(key) <= 30_000 for key in keys)


def ask(limit: SharedLimit, *names: str) -> list[float]:
    """Book credits one after the other with a store of its own; return their waits."""

    async def main() -> list[float]:
        store = RedisLimitStore(limit)
        try:
            return [await book(store, credit) for credit in names]
        finally:
            await store.aclose()

    return asyncio.run(main())


async def book(store: RedisLimitStore, credit: str) -> float:
    """Book a credit; return its wait, infinite where it is not known yet."""
    wait = await store.exchange(credit, 0, ())
    return math.inf if wait is None else wait


def test_a_second_process_knows_what_the_first_one_booked(redis_port: int) -> None:
    """Its first credit comes after theirs, not at once."""
    limit = make_limit(redis_port, requests=6)
    first = ask(limit, *(f"a-{number}:0" for number in range(3)))
    second = ask(limit, "b-0:0")
    assert second[0] > first[-1] + 0.9


def test_other_names_are_other_limits(redis_port: int) -> None:
    """Credits of one name are not taken from another."""
    one, other = make_limit(redis_port, requests=1), make_limit(redis_port, requests=1)
    assert ask(one, "a-0:0") == pytest.approx([0.0], abs=0.1)
    assert ask(other, "a-0:0") == pytest.approx([0.0], abs=0.1)
    assert ask(one, "b-0:0")[0] > 6


def test_a_server_that_forgot_lets_nothing_leave_for_a_life(tmp_path: Path) -> None:
    """Away it is said to be away; after a restart nobody's credit is due for a window and a life.

    Neither that of a process that knew the old server, nor that of a new one; and once only.
    """

    async def main() -> list[float]:
        port = find_port()
        limit = make_limit(port)
        store, newcomer = RedisLimitStore(limit), RedisLimitStore(limit)
        with run_redis(tmp_path, port):
            await store.exchange("a-0:0", 0, ())
        with pytest.raises(StoreAway):
            await store.exchange("a-1:0", 0, ())
        with run_redis(tmp_path, port):
            waits = [await book(newcomer, "b-0:0")]
            waits += [await book(store, f"a-{number}:0") for number in (1, 2)]
            waits += [await book(newcomer, "b-1:0")]
            await store.aclose()
            await newcomer.aclose()
        return waits

    newcomers, *others = asyncio.run(main())
    assert newcomers < 0.5  # it cannot know; it sends on the even first window alone
    assert others == [math.inf] * 3  # more than a window away


def test_a_call_that_was_cancelled_is_no_other_ones_answer(redis_port: int) -> None:
    """Whenever a question is given up, the next one gets its own answer."""
    import redis

    limit = make_limit(redis_port, requests=1000)

    async def main() -> None:
        store = RedisLimitStore(limit)
        for number in range(40):
            question = asyncio.create_task(store.exchange(f"a-{number}:0", 0, ()))
            await asyncio.sleep(number * 5e-5)
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)
            returned = Return(f"a-{number}:0", None)
            assert await store.exchange("", 0, [returned]) is None
            assert await book(store, f"b-{number}:0") < 1
            await store.exchange("", 0, [Return(f"b-{number}:0", None)])
        await store.aclose()

    asyncio.run(main())
    with redis.Redis(port=redis_port) as client:
        assert client.zcard(f"{limit.name}:credits") == 0  # nothing is held by what was given up


def test_a_forgotten_script_is_loaded_again(redis_port: int) -> None:
    """A server that was told to forget its scripts is away for one question only."""
    import redis

    limit = make_limit(redis_port)

    async def main() -> float:
        store = RedisLimitStore(limit)
        await store.exchange("a-0:0", 0, ())
        with redis.Redis(port=redis_port) as client:
            client.script_flush()
        with pytest.raises(StoreAway, match="NoScriptError"):
            await store.exchange("a-1:0", 0, ())
        wait = await book(store, "a-1:0")
        await store.aclose()
        return wait

    assert asyncio.run(main()) < 1


def test_a_password_opens_the_store_and_is_shown_nowhere(tmp_path: Path) -> None:
    """With it credits are booked; a wrong one, or none, is a LimitStop that shows neither."""
    with run_redis(tmp_path, None, "--requirepass", PASSWORD) as port:
        limit = make_limit(port, password=Secret(PASSWORD))
        assert len(ask(limit, "a-0:0")) == 1
        assert PASSWORD not in repr(limit)
        assert PASSWORD not in repr(RedisLimitStore(limit))
        for password in (Secret(PASSWORD + "x"), None):
            with pytest.raises(LimitStop, match="limit_store_password_env") as stop:
                ask(replace(limit, password=password), "a-0:0")
            assert PASSWORD not in "".join(traceback.format_exception(stop.value))


def test_tls_is_checked_against_the_ca_file(tmp_path: Path) -> None:
    """``rediss`` with the CA that signed the server's certificate works, without it nothing is."""
    certificate, key = write_certificate(tmp_path)
    port = find_port()
    options = ["--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key]
    options += ["--tls-auth-clients", "no"]
    with run_redis(tmp_path, None, *options):
        limit = make_limit(port, tls=True, ca_file=certificate)
        assert len(ask(limit, "a-0:0")) == 1
        with pytest.raises(StoreAway):
            ask(replace(limit, ca_file=None), "a-0:0")


def write_certificate(folder: Path) -> tuple[str, str]:
    """Write a self-signed certificate for 127.0.0.1 and its key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(paths[0]), str(paths[1])


def test_a_server_that_cannot_run_the_script_is_a_stop(redis_port: int) -> None:
    """An error of the script is not taken for an absence: waiting would not help."""
    store = RedisLimitStore(make_limit(redis_port), 'return redis.error_reply("ERR broken")')

    async def main() -> None:
        with pytest.raises(LimitStop, match="broken"):
            await store.exchange("a-0:0", 0, ())
        await store.aclose()

    asyncio.run(main())
