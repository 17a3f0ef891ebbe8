"""Every kind of fault in one table: what it does, and whether the search is billed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from rerank_jobs.endpoint.broken_replies import HARMLESS, SPOILERS, Spoiler
from rerank_jobs.endpoint.error_answers import WHOLE, Incident, build_answer
from rerank_jobs.endpoint.error_shapes import SHAPES
from rerank_jobs.endpoint.wire import WireAnswer

__all__ = ["KINDS", "Breakage", "Kind"]

Refuse = Callable[[Incident], WireAnswer]


class Breakage(Enum):
    """What goes wrong below HTTP."""

    RESET = "the connection is reset instead of an answer"
    RESET_MID_BODY = "the connection is reset after half of the answer"
    TRUNCATE = "the connection is closed after half of the body that Content-Length announced"
    DRIBBLE = "the answer comes whole, in many small pieces"
    HANG = "no answer comes until a bound, then the connection is reset"
    NONE = "nothing but the delay"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Exactly one of ``refuse`` (an error answer), ``spoil`` (a reply gone wrong) and ``breakage``
    (below HTTP) is set. ``billed``: the search was carried out and is on the bill. ``sound``:
    every score gets through all the same. ``seconds``: how long it takes where a rule does not say.
    """

    name: str
    billed: bool
    sound: bool = False
    refuse: Refuse | None = field(default=None, repr=False)
    spoil: Spoiler | None = field(default=None, repr=False)
    breakage: Breakage | None = None
    seconds: float = 0.0

    @property
    def replies(self) -> bool:
        """Whether a true reply is needed, to be spoiled or broken."""
        return self.refuse is None and self.breakage not in {Breakage.RESET, Breakage.HANG}


_BILLED_ERRORS = frozenset(
    {"200_error", "200_error_without_code", "200_neither", "504_timeout", "524_edge_timeout"}
)
"""Errors behind which the search ran to its end: an edge gave up waiting, or a success went bad."""

_BROKEN = (
    Kind("reset_before_billing", billed=False, breakage=Breakage.RESET),
    Kind("reset_after_billing", billed=True, breakage=Breakage.RESET),
    Kind("reset_mid_body", billed=True, breakage=Breakage.RESET_MID_BODY),
    Kind("body_truncated", billed=True, breakage=Breakage.TRUNCATE),
    Kind("body_dribbled", billed=True, sound=True, breakage=Breakage.DRIBBLE, seconds=10.0),
    Kind("no_answer", billed=False, breakage=Breakage.HANG, seconds=120.0),
    Kind("no_answer_after_billing", billed=True, breakage=Breakage.HANG, seconds=120.0),
    Kind("late", billed=True, sound=True, breakage=Breakage.NONE, seconds=10.0),
)


def _list_kinds() -> list[Kind]:
    refusals: dict[str, Refuse] = {
        **{name: functools.partial(build_answer, shape) for name, shape in SHAPES.items()},
        **WHOLE,
    }
    return [
        *(
            Kind(name, billed=name in _BILLED_ERRORS, refuse=refuse)
            for name, refuse in sorted(refusals.items())
        ),
        *(
            Kind(name, billed=True, sound=name in HARMLESS, spoil=spoil)
            for name, spoil in SPOILERS.items()
        ),
        *_BROKEN,
    ]


KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _list_kinds()}
"""Every kind by its name."""
