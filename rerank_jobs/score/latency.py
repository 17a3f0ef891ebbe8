"""Latencies as counts by size, so that percentiles of many processes add up. Pure.

Class ``k`` holds latencies of at most 1 ms x 1.05^k (and above the class before), so a percentile
is read within 5 %.
"""

from __future__ import annotations

import math

from rerank_jobs.model import Tally

__all__ = ["classify_latency", "read_percentile"]

_SHORTEST_SECONDS = 0.001
_GROWTH = math.log(1.05)


def classify_latency(seconds: float) -> str:
    """Return the class of a latency; classes sort by size as texts."""
    if seconds <= _SHORTEST_SECONDS:
        return "000"
    return f"{math.ceil(math.log(seconds / _SHORTEST_SECONDS) / _GROWTH):03d}"


def read_percentile(latencies: Tally, share: float) -> float | None:
    """Return the latency (s) that ``share`` (0 to 1) of all do not exceed; ``None`` without any."""
    total = sum(count for _, count in latencies.counts)
    seen = 0
    for name, count in latencies.counts:
        seen += count
        if seen >= share * total:
            return _SHORTEST_SECONDS * math.exp(int(name) * _GROWTH)
    return None
