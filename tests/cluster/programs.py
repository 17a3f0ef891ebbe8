"""The programs that a cluster needs and that no Python package brings: Postgres and Redis."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MissingProgram", "Programs", "find_programs"]

POSTGRES_HOMES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
POSTGRES_USER = "postgres"


class MissingProgram(Exception):
    """A program is not on this machine; the message says which package has it."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs; ``as_postgres`` stands before Postgres' own where we are root."""

    initdb: str
    postgres: str
    redis: str
    as_postgres: tuple[str, ...] = ()


def find_programs() -> Programs:
    """Return the programs of this machine; of several versions of Postgres the newest.

    Raises:
        MissingProgram: one is not there, or nobody could run it.

    """
    postgres, redis = _find_postgres(), shutil.which("redis-server")
    missing = [
        *([] if postgres else ["Postgres (apt-get install postgresql)"]),
        *([] if redis else ["Redis (apt-get install redis-server)"]),
    ]
    if postgres is None or redis is None:
        raise MissingProgram(f"the cluster needs {' and '.join(missing)}")
    return Programs(str(postgres.with_name("initdb")), str(postgres), redis, _find_user())


def _find_postgres() -> Path | None:
    """Return the server that has its ``initdb`` beside it: Debian keeps both off the PATH."""
    named = shutil.which("postgres")
    homes = [home for pattern in POSTGRES_HOMES for home in Path("/").glob(pattern[1:])]
    homes.sort(
        key=lambda home: [int(part) for part in home.parent.name.split(".") if part.isdigit()]
    )
    places = [
        *([Path(named).resolve()] if named else []),
        *(home / "postgres" for home in homes[::-1]),
    ]
    return next((one for one in places if one.exists() and one.with_name("initdb").exists()), None)


def _find_user() -> tuple[str, ...]:
    """Postgres refuses to run as root: it becomes the user that its package made."""
    if os.geteuid() != 0:
        return ()
    try:
        pwd.getpwnam(POSTGRES_USER)
    except KeyError:
        raise MissingProgram(
            "Postgres does not run as root, and there is no user postgres to run it as"
            " (apt-get install postgresql makes one)"
        ) from None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise MissingProgram("the cluster needs setpriv (apt-get install util-linux)")
    # runuser and su keep a process of their own in between, which does not pass SIGINT on.
    user = (f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--clear-groups")
    return (setpriv, *user)
