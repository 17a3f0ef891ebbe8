"""What a run may spend, in dollars. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["Allowance"]

_ROUNDING_USD = 1e-9


@dataclass(slots=True)
class Allowance:
    """Never admits a send that, at its planned price, could overspend ``limit_usd``.

    Spent is what replies reported, the estimates of replies that reported nothing, the planned
    cost of sends of unknown fate, and of those in flight. ``None`` is no limit.
    """

    limit_usd: float | None
    reported_usd: float = field(default=0.0, init=False)
    estimated_usd: float = field(default=0.0, init=False)
    unknown_usd: float = field(default=0.0, init=False)
    in_flight_usd: float = field(default=0.0, init=False)

    @property
    def spent_usd(self) -> float:
        """Everything that is, or may have been, charged."""
        return self.reported_usd + self.estimated_usd + self.unknown_usd + self.in_flight_usd

    def admit(self, planned_usd: float) -> bool:
        """Hold ``planned_usd`` for a send and return true, or return false if it does not fit."""
        room = math.inf if self.limit_usd is None else self.limit_usd - self.spent_usd
        if planned_usd > max(room, 0.0) + _ROUNDING_USD:
            return False
        self.in_flight_usd += planned_usd
        return True

    def settle(self, planned_usd: float, cost_usd: float, *, estimated: bool) -> None:
        """Count a reply that cost ``cost_usd``, by its own word or by estimate."""
        self.in_flight_usd -= planned_usd
        if estimated:
            self.estimated_usd += cost_usd
        else:
            self.reported_usd += cost_usd

    def lose(self, planned_usd: float) -> None:
        """Count a send of which nobody knows whether it was charged."""
        self.in_flight_usd -= planned_usd
        self.unknown_usd += planned_usd

    def release(self, planned_usd: float) -> None:
        """Free what a send held that was surely not charged."""
        self.in_flight_usd -= planned_usd
