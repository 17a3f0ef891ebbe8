"""Which request is struck by which fault: seeded, counted, the clock passed in. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rerank_jobs.endpoint.error_answers import ASSUMED_TOKENS, Incident
from rerank_jobs.endpoint.faults import Faults, Rule
from rerank_jobs.endpoint.kinds import Kind
from rerank_jobs.endpoint.wire import RerankCall

__all__ = ["Injector", "Route", "Strike"]

Route = Literal["rerank", "key"]


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that strikes one request.

    ``index``: the first document in the rule's scope, 0 where the rule has none; it has ``tokens``
    tokens. ``seconds``: how long the fault takes.
    """

    kind: Kind
    rule: Rule = field(repr=False)
    index: int
    tokens: int
    rng: random.Random = field(repr=False)

    @property
    def billed(self) -> bool:
        """Whether the search is carried out and billed."""
        return self.kind.billed if self.rule.billed is None else self.rule.billed

    @property
    def seconds(self) -> float:
        """How long the fault takes."""
        return self.kind.seconds if self.rule.seconds is None else self.rule.seconds

    def describe(self, call: RerankCall | None, now: float) -> Incident:
        """Return what an error answer needs to know; ``now``: seconds since the epoch."""
        return Incident(
            now=now,
            rng=self.rng,
            call=call,
            index=self.index,
            tokens=self.tokens,
            wait_seconds=self.rule.wait_seconds,
            hints=self.rule.hints,
        )


@dataclass(slots=True)
class _Tally:
    rng: random.Random
    seen: int = 0
    struck: int = 0


class Injector:
    """Decides for each request, in the order in which it is asked.

    Each rule has a generator of its own, so that a rule draws the same whatever others do; the
    bytes that a fault makes up come from one generator per strike.
    """

    def __init__(self, faults: Faults, started: float) -> None:
        """Count seconds of schedules from ``started``."""
        self.faults = faults
        self._started = started
        self._latency = random.Random(f"{faults.seed}/latency")  # noqa: S311 - not for secrets
        self._transit = random.Random(f"{faults.seed}/transit")  # noqa: S311
        self._tallies = [
            _Tally(random.Random(f"{faults.seed}/{number}"))  # noqa: S311
            for number in range(len(faults.rules))
        ]

    @property
    def needs_tokens(self) -> bool:
        """Whether a rule asks for the tokens of documents."""
        return any(rule.document_tokens_over is not None for rule in self.faults.rules)

    def draw_latency(self) -> float:
        """Return the delay of the next scored reply in seconds."""
        latency = self.faults.latency
        return 0.0 if latency is None else latency.draw(self._latency)

    def draw_transit(self) -> float:
        """Return how long the next request is on its way, in seconds."""
        transit = self.faults.transit
        return 0.0 if transit is None else transit.draw(self._transit)

    def strike(
        self,
        route: Route,
        now: float,
        call: RerankCall | None = None,
        tokens: Sequence[int] = (),
    ) -> Strike | None:
        """Return the fault that strikes the next request, ``None`` where all goes well.

        ``call`` is None for ``GET /key``. ``tokens``: of the query and of each document; needed
        only if ``needs_tokens``.
        """
        for number, (rule, tally) in enumerate(zip(self.faults.rules, self._tallies, strict=True)):
            if rule.route not in {route, "both"} or not _is_due(rule, now - self._started):
                continue
            index = _find_guilty(rule, call, tokens)
            if index is None or not _draw(rule, tally):
                continue
            return Strike(
                kind=rule.what,
                rule=rule,
                index=index,
                tokens=tokens[index + 1] if tokens else ASSUMED_TOKENS,
                rng=random.Random(f"{self.faults.seed}/{number}/{tally.struck}"),  # noqa: S311
            )
        return None


def _is_due(rule: Rule, since_start: float) -> bool:
    if rule.every_seconds is not None:
        since_start %= rule.every_seconds
    return rule.from_seconds <= since_start and (
        rule.until_seconds is None or since_start < rule.until_seconds
    )


def _find_guilty(rule: Rule, call: RerankCall | None, tokens: Sequence[int]) -> int | None:
    """Return the first document in the rule's scope (0 without one), ``None`` outside of it."""
    if not rule.scoped or call is None:
        return 0
    if rule.query_contains is not None and rule.query_contains not in call.query:
        return None
    marker, most = rule.document_contains, rule.document_tokens_over
    return next(
        (
            index
            for index, document in enumerate(call.documents)
            if (marker is None or marker in document) and (most is None or tokens[index + 1] > most)
        ),
        None,
    )


def _draw(rule: Rule, tally: _Tally) -> bool:
    tally.seen += 1
    if tally.seen < rule.first or (rule.count is not None and tally.struck >= rule.count):
        return False
    if rule.share < 1 and tally.rng.random() >= rule.share:
        return False
    tally.struck += 1
    return True
