"""All that the cluster's stores hold, value by value: for whoever searches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import redis
import sqlalchemy

from tests.cluster.settings import HOST, Plan

__all__ = ["read_database", "read_redis"]


def read_database(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Yield ``table.column`` and bytes of every value of every table, as they are stored."""
    engine = sqlalchemy.create_engine(plan.database)
    try:
        with engine.connect() as connection:
            for table in sorted(sqlalchemy.inspect(engine).get_table_names()):
                rows = connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"'))
                names = list(rows.keys())
                for row in rows:
                    for name, value in zip(names, row, strict=True):
                        if value is not None:
                            yield f"{table}.{name}", _pack(value)
    finally:
        engine.dispose()


def read_redis(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every value in Redis now: the broker's and the limit's."""
    for number in (0, 1):
        with redis.Redis(HOST, plan.redis, db=number) as client:
            for key in client.scan_iter("*"):
                name = f"redis {number} {key.decode(errors='replace')}"
                yield name, key
                for value in _read_key(client, key):
                    yield name, _pack(value)


def _read_key(client: Any, key: bytes) -> list[Any]:
    # Not DUMP: Redis compresses longer strings in it by a scheme of its own.
    match client.type(key):
        case b"string":
            return [client.get(key)]
        case b"list":
            return list(client.lrange(key, 0, -1))
        case b"set":
            return list(client.smembers(key))
        case b"zset":
            return list(client.zrange(key, 0, -1))
        case b"hash":
            return [part for pair in client.hgetall(key).items() for part in pair]
    return []


def _pack(value: Any) -> bytes:
    match value:
        case bytes() | memoryview():
            return bytes(value)
        case str():
            return value.encode()
        case dict() | list():
            return orjson.dumps(value)
    return str(value).encode()
