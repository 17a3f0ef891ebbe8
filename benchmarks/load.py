"""The load that every client gets: queries with 50 documents of 80 words each."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from resource import RUSAGE_SELF, getrusage
from typing import Self

__all__ = [
    "DOCUMENTS",
    "IN_FLIGHT",
    "MODEL",
    "WORDS",
    "Call",
    "Stopwatch",
    "make_calls",
    "repeat_calls",
]

DOCUMENTS = 50
WORDS = 80
IN_FLIGHT = 64
MODEL = "cohere/rerank-v3.5"

_POOL = 400
_LETTERS = "aabcdeeefghiiklmnnooprrsttuvwy"


@dataclass(frozen=True, slots=True)
class Call:
    """One query with its documents."""

    query: str
    documents: list[str]


def make_calls(count: int) -> list[Call]:
    """Return ``count`` different calls, always the same ones; about 28 KB of documents in each."""
    draw = random.Random(3)
    words = ["".join(draw.choices(_LETTERS, k=draw.randrange(3, 10))) for _ in range(5000)]
    pool = [" ".join(draw.choices(words, k=WORDS)) for _ in range(_POOL)]
    return [
        Call(" ".join(draw.choices(words, k=6)), draw.sample(pool, DOCUMENTS)) for _ in range(count)
    ]


def repeat_calls(calls: list[Call], count: int) -> Iterator[Call]:
    """Yield ``count`` calls, beginning again where they end."""

    def endless() -> Iterator[Call]:
        while True:
            yield from calls

    return islice(endless(), count)


@dataclass(slots=True)
class Stopwatch:
    """Wall and CPU seconds (user and system, all threads) of this process inside a ``with``."""

    wall: float = field(default=0.0, init=False)
    cpu: float = field(default=0.0, init=False)

    def __enter__(self) -> Self:
        """Start."""
        self.wall -= time.perf_counter()
        self.cpu -= _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.wall += time.perf_counter()
        self.cpu += _cpu_seconds()


def _cpu_seconds() -> float:
    usage = getrusage(RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
