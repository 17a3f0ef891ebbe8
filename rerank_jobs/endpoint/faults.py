"""What is to go wrong, as one validated value, and the file that it is written in."""

from __future__ import annotations

import difflib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from rerank_jobs.config.part import Count, Part
from rerank_jobs.endpoint.error_answers import Hint
from rerank_jobs.endpoint.kinds import KINDS, Kind
from rerank_jobs.errors import JobError
from rerank_jobs.job_text import describe_problem, read_mapping, show_value

__all__ = ["Faults", "Latency", "Rule", "load_faults"]

Seconds = Annotated[float, Field(ge=0, le=10**9)]


class Rule(Part):
    """One kind of fault and the requests that it strikes; all conditions must hold.

    ``share`` of the requests in its scope, drawn one by one; ``count``: at most so many; ``first``:
    from the so-many-th request in its scope on. ``from_seconds`` to ``until_seconds`` (not
    included) since the server started; ``every_seconds`` repeats that span. ``query_contains``,
    ``document_contains`` and ``document_tokens_over`` are the content in its scope; for the last
    two one document is enough, and that document is the one that errors name. ``route``: scoring
    (``rerank``), ``GET /key`` or both.

    ``wait_seconds`` is named in each place of ``hints`` (error answers). ``seconds``: before any
    other answer; over which a dribbled body is spread; until a hang ends. ``billed`` overrides the
    kind's own.
    """

    kind: str
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    count: Count | None = None
    first: Count = 1
    from_seconds: Seconds = 0.0
    until_seconds: Seconds | None = None
    every_seconds: Annotated[float, Field(gt=0)] | None = None
    query_contains: Annotated[str, Field(min_length=1)] | None = None
    document_contains: Annotated[str, Field(min_length=1)] | None = None
    document_tokens_over: Annotated[int, Field(ge=0)] | None = None
    route: Literal["rerank", "key", "both"] = "rerank"
    wait_seconds: Seconds | None = None
    hints: Annotated[Sequence[Hint], AfterValidator(tuple)] = ("header",)
    seconds: Seconds | None = None
    billed: bool | None = None

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: str) -> str:
        if kind in KINDS:
            return kind
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f", did you mean {near[0]}?" if near else " (docs/embedded.md lists them)"
        raise ValueError(f"no such kind of fault: {show_value(kind)}{hint}")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        kind = self.what
        if self.until_seconds is not None and self.until_seconds <= self.from_seconds:
            raise ValueError("until_seconds must be later than from_seconds")
        if self.every_seconds is not None and self.every_seconds < (self.until_seconds or 0):
            raise ValueError("every_seconds must not be shorter than until_seconds")
        if self.wait_seconds is not None and kind.refuse is None:
            raise ValueError("wait_seconds: only error answers name a wait")
        if self.billed is not None and kind.sound:
            raise ValueError(f"billed: {self.kind} gives every score, so it is billed")
        if self.route != "rerank" and (self.scoped or kind.refuse is None):
            raise ValueError("route: beyond rerank there are only error answers, without a scope")
        return self

    @property
    def what(self) -> Kind:
        """The kind of fault itself."""
        return KINDS[self.kind]

    @property
    def scoped(self) -> bool:
        """Whether the content of a request decides."""
        scope = (self.query_contains, self.document_contains, self.document_tokens_over)
        return any(condition is not None for condition in scope)


class Latency(Part):
    """How long a reply takes: always ``seconds``, or drawn anew for each.

    ``low`` to ``high``: any value between is as likely. ``median`` with ``sigma``: lognormal,
    median x exp(N(0, sigma)), most replies near the median with a long tail, at most ``most``.
    """

    seconds: Seconds | None = None
    low: Seconds | None = None
    high: Seconds | None = None
    median: Seconds | None = None
    sigma: Annotated[float, Field(ge=0, le=10)] | None = None
    most: Seconds = 60.0

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        given = {name for name in ("seconds", "low", "high", "median", "sigma") if self._has(name)}
        if given not in ({"seconds"}, {"low", "high"}, {"median", "sigma"}):
            raise ValueError("give either seconds, or low and high, or median and sigma")
        if self.low is not None and self.high is not None and self.high < self.low:
            raise ValueError("high must not be below low")
        return self

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def draw(self, rng: random.Random) -> float:
        """Return the latency of one reply in seconds."""
        if self.seconds is not None:
            return self.seconds
        if self.low is not None and self.high is not None:
            return rng.uniform(self.low, self.high)
        return min(self.most, (self.median or 0.0) * rng.lognormvariate(0.0, self.sigma or 0.0))


class Faults(Part):
    """All that goes wrong, repeatable: the same seed and order of requests, the same faults.

    ``rules`` are tried in order and the first that strikes decides, so a later rule's share is of
    the requests that the earlier ones let through. ``latency`` delays every scored reply;
    ``transit`` every rerank request before the server looks at it, so that sends spaced evenly
    arrive in bursts and out of order.
    """

    seed: int = 0
    transit: Latency | None = None
    latency: Latency | None = None
    rules: Annotated[Sequence[Rule], AfterValidator(tuple)] = ()


def load_faults(path: Path) -> Faults:
    """Read and validate a file of faults (YAML or JSON).

    Raises:
        JobError: the file is missing, is not YAML, or does not describe faults.

    """
    data = read_mapping(path, "file of faults", "seed:, latency: and rules:")
    try:
        return Faults.model_validate(data)
    except ValidationError as error:
        problems = [
            describe_problem(Faults, dict(item)) for item in error.errors(include_url=False)
        ]
        raise JobError(f"{path}: " + "; ".join(problems)) from None
