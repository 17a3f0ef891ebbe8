"""The store of a shared rate limit: Redis, or a server that speaks as it does, and one script.

Everything that decides is in ``limit.lua``, which runs there in one step and by that server's
clock. Here is the way to it. Nothing here shows the password.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rerank_jobs.config import Endpoint, Secret, read_store_password
from rerank_jobs.errors import JobError, LimitStop
from rerank_jobs.score.access import Access
from rerank_jobs.score.pacing import BURST, HEAD_SHARE, TOKEN_SLICES
from rerank_jobs.score.settings import ScoreSettings
from rerank_jobs.score.shared_pacing import USE_SECONDS, Return, StoreAway

if TYPE_CHECKING:
    from redis.asyncio.connection import Connection

__all__ = ["RedisLimitStore", "SharedLimit", "make_script", "read_shared_limit", "try_store"]

CALL_SECONDS = 5.0
"""For one question and its answer, and for connecting."""

PRESENT_SECONDS = 5.0
"""Who waits for a credit and has not asked for so long loses its place."""

REDIS_TIME = """local clock = redis.call("TIME")
local now = clock[1] * 1000000 + clock[2]"""


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """Where a limit is kept, under which name, and what it is.

    ``requests`` and ``tokens`` in ``window_seconds``, ``None`` for no limit. ``life_seconds``: how
    long after a credit is due a server may count what was sent on it, and a window.
    """

    host: str
    port: int
    database: int
    name: str
    requests: int | None
    tokens: int | None
    window_seconds: float
    life_seconds: float
    user: str | None = None
    password: Secret | None = None
    tls: bool = False
    ca_file: str | None = None


def read_shared_limit(
    endpoint: Endpoint,
    settings: ScoreSettings,
    key: Secret | None,
    access: Access,
    resolve: Callable[[str], str] = str,
) -> SharedLimit | None:
    """Return the limit that the job shares, ``None`` where its process has one of its own.

    ``resolve`` makes a path of the job file absolute.

    Raises:
        KeyStop: the variable of the store's password is not set.
        JobError: the package for it is not installed.

    """
    if endpoint.limit_store is None:
        return None
    try:
        import redis  # noqa: F401
    except ImportError:
        raise JobError(
            "endpoint.limit_store needs a package more: pip install 'rerank-jobs[redis]'"
        ) from None
    address = urlsplit(endpoint.limit_store)
    window = settings.window_seconds
    return SharedLimit(
        host=address.hostname or "",
        port=address.port or 6379,
        database=int(address.path[1:] or 0),
        name=f"rerank-jobs:limit:{{{_name_limit(endpoint, key, access)}:{window:g}}}",
        requests=settings.limit,
        tokens=settings.token_limit,
        window_seconds=window,
        life_seconds=USE_SECONDS + settings.timeout_seconds + window,
        user=address.username,
        password=read_store_password(endpoint),
        tls=address.scheme == "rediss",
        ca_file=None if endpoint.ca_file is None else resolve(endpoint.ca_file),
    )


def _name_limit(endpoint: Endpoint, key: Secret | None, access: Access) -> str:
    """Return ``limit_name``, else a digest of the endpoint's host and of what opens it.

    A digest does not give an API key away: keys are random, so that guesses are no use.
    """
    if endpoint.limit_name is not None:
        return endpoint.limit_name
    address = urlsplit(endpoint.url)
    secrets = ["" if key is None else key.reveal()]
    secrets += sorted(f"{name.lower()}: {secret.reveal()}" for name, secret in access.headers)
    whole = "\n".join([f"{address.scheme}://{address.netloc}".lower(), *secrets])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def make_script(now: str = REDIS_TIME) -> str:
    """Return the script with its constants; ``now`` is the Lua that sets the clock ``now``."""
    constants = (
        f"local BURST, HEAD_SHARE, TOKEN_SLICES = {BURST}, {HEAD_SHARE}, {TOKEN_SLICES}\n"
        f"local PRESENT = {_micros(PRESENT_SECONDS)}"
    )
    rules = resources.files(__package__).joinpath("limit.lua").read_text(encoding="utf-8")
    return f"{constants}\n{now}\n{rules}"


async def try_store(limit: SharedLimit) -> None:
    """Ask the store once, and book nothing.

    Raises:
        LimitStop: it does not answer, or refuses us.

    """
    store = RedisLimitStore(limit)
    try:
        await store.exchange("", 0, ())
    except StoreAway as error:
        raise LimitStop(
            f"endpoint.limit_store: {limit.host}:{limit.port} gives no answer ({error}): check"
            " the address, and whether it runs"
        ) from None
    finally:
        await store.aclose()


class RedisLimitStore:
    """Asks one server by one connection; made again where it breaks.

    Questions and answers are never repeated here: the caller knows what may be.
    """

    def __init__(self, limit: SharedLimit, script: str | None = None) -> None:
        """Connect to nothing yet."""
        self._limit = limit
        self._script = script or make_script()
        self._keys = [f"{limit.name}:{part}" for part in ("state", "credits", "waiting", "rates")]
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._sha = ""
        self._run: str | None = None
        self._moved = False

    async def exchange(self, booked: str, spaced: int, returns: Sequence[Return]) -> float | None:
        """Hand credits back and book one, see ``LimitStore``.

        Raises:
            StoreAway: no answer came.
            LimitStop: the server refuses us, or the script.

        """
        async with self._turn:
            done = False
            try:
                async with asyncio.timeout(2 * CALL_SECONDS):
                    if self._connection is None:
                        await self._connect()
                    micros = await self._evaluate(booked, spaced, returns)
                done = True
            except Exception as error:  # noqa: BLE001 - what is not of the store's passes as it is
                raise self._explain(error) from None
            finally:
                if not done:
                    # An answer may still be on its way: it must not be taken for the next one's.
                    await self._disconnect(nowait=True)
            self._moved = False
        return None if micros is None else micros / 1e6

    async def aclose(self) -> None:
        """Close the connection."""
        await self._disconnect()

    async def _evaluate(self, booked: str, spaced: int, returns: Sequence[Return]) -> int | None:
        limit = self._limit
        arguments: list[str | int] = [
            self._run or "",
            int(self._moved),
            _micros(limit.window_seconds),
            _micros(limit.life_seconds),
            limit.requests or 0,
            limit.tokens or 0,
            booked,
            spaced,
        ]
        for one in returns:
            age = -1 if one.age_seconds is None else _micros(one.age_seconds)
            arguments += [one.credit, age, -1 if one.counted is None else one.counted]
        micros: int | None = await self._ask(
            "EVALSHA", self._sha, len(self._keys), *self._keys, *arguments
        )
        return micros

    async def _connect(self) -> None:
        """Connect, load the script, and learn which run of the server this is."""
        from redis.exceptions import ResponseError

        self._connection = _make_connection(self._limit)
        await self._connection.connect()  # type: ignore[no-untyped-call]
        self._sha = (await self._ask("SCRIPT", "LOAD", self._script)).decode()
        try:
            told = await self._ask("INFO", "server")
        except ResponseError:  # not allowed to ask: a restart then goes unseen
            told = b""
        runs = [line for line in told.splitlines() if line.startswith(b"run_id:")]
        run = runs[0].removeprefix(b"run_id:").decode() if runs else ""
        self._moved = self._moved or (self._run is not None and self._run != run)
        self._run = run

    async def _ask(self, *words: str | int) -> Any:
        connection = self._connection
        assert connection is not None  # noqa: S101
        await connection.send_command(*words)
        return await connection.read_response()

    async def _disconnect(self, *, nowait: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=nowait)

    def _explain(self, error: Exception) -> Exception:
        """Return what an error means: away for a while, refused, or no business of ours."""
        from redis import exceptions

        if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
            return LimitStop(
                f"endpoint.limit_store: {self._limit.host} refuses us ({type(error).__name__}):"
                " check its user and the password that endpoint.limit_store_password_env names"
            )
        passing = (
            exceptions.NoScriptError,
            exceptions.ReadOnlyError,
            exceptions.TryAgainError,
            exceptions.ClusterDownError,
            exceptions.OutOfMemoryError,
        )
        refused = isinstance(error, exceptions.ResponseError) and not isinstance(error, passing)
        if refused:
            return LimitStop(
                f"endpoint.limit_store: {self._limit.host} cannot keep the limit ({error}):"
                " it takes Redis, or a server like it, that is no part of a cluster"
            )
        if isinstance(error, exceptions.RedisError | OSError):
            return StoreAway(type(error).__name__)
        return error


def _make_connection(limit: SharedLimit) -> Connection:
    from redis.asyncio.connection import Connection, SSLConnection
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {
        "host": limit.host,
        "port": limit.port,
        "db": limit.database,
        "username": limit.user,
        "password": None if limit.password is None else limit.password.reveal(),
        "socket_timeout": CALL_SECONDS,
        "socket_connect_timeout": CALL_SECONDS,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    if limit.tls:
        return SSLConnection(**options, ssl_ca_certs=limit.ca_file)
    return Connection(**options)


def _micros(seconds: float) -> int:
    return int(seconds * 1e6)
