"""What an endpoint has answered and billed: the witness of tests that nothing is paid twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

__all__ = ["Stats", "digest_pair", "digest_pairs"]


def digest_pair(query: str, document: str) -> bytes:
    """Return the 16 bytes under which a (query, document) pair stands in the bill."""
    return next(digest_pairs(query, [document]))


def digest_pairs(query: str, documents: Iterable[str]) -> Iterator[bytes]:
    """Yield ``digest_pair`` of one query with each document, in the order given."""
    key = blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    for document in documents:
        text = document.encode("utf-8", "surrogatepass")
        yield blake2b(text, digest_size=16, key=key).digest()


@dataclass(slots=True)
class Stats:
    """Counters over the life of one app; holds digests of pairs, never their text.

    Each rerank request has one of three outcomes. ``answered``: billed, with a reply that holds
    every score. ``spoiled``: billed, but its scores did not get through (an injected fault).
    ``refused``: neither billed nor scored. ``passages``, ``search_units`` and ``cost_usd`` count
    what was billed. ``pairs`` maps the digest of each billed pair to how often it was billed,
    ``pairs_spoiled`` to how often its scores did not get through. ``refusals`` and ``faults``
    count by kind; a refusal that was injected stands in both. Some 100 bytes a distinct pair.
    """

    answered: int = 0
    spoiled: int = 0
    passages: int = 0
    search_units: int = 0
    search_units_spoiled: int = 0
    billed_usd: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    pairs: dict[bytes, int] = field(default_factory=dict, repr=False)
    pairs_spoiled: dict[bytes, int] = field(default_factory=dict, repr=False)

    @property
    def requests(self) -> int:
        """Requests that were scored, and so billed."""
        return self.answered + self.spoiled

    @property
    def refused(self) -> int:
        """Requests that were neither scored nor billed."""
        return self.refusals.total()

    def sends(self) -> tuple[int, int, int]:
        """Return how many requests were answered, spoiled and refused: together, all of them."""
        return self.answered, self.spoiled, self.refused

    @property
    def cost_usd(self) -> float:
        """Dollars billed, to the nano-dollar."""
        return round(self.billed_usd, 9)

    @property
    def pairs_repeated(self) -> int:
        """Distinct pairs that were billed more than once."""
        return sum(times > 1 for times in self.pairs.values())

    def record(
        self,
        query: str,
        documents: Iterable[str],
        search_units: int,
        cost_usd: float = 0.0,
        *,
        spoiled: bool = False,
    ) -> None:
        """Bill one scored request; ``spoiled``: its scores will not get through."""
        if spoiled:
            self.spoiled += 1
            self.search_units_spoiled += search_units
        else:
            self.answered += 1
        self.search_units += search_units
        self.billed_usd += cost_usd
        pairs = self.pairs
        for pair in digest_pairs(query, documents):
            self.passages += 1
            pairs[pair] = pairs.get(pair, 0) + 1
            if spoiled:
                self.pairs_spoiled[pair] = self.pairs_spoiled.get(pair, 0) + 1

    def refuse(self, kind: str) -> None:
        """Count one request that was neither scored nor billed."""
        self.refusals[kind] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the counters as they are shown at ``/stats``."""
        return {
            "requests": self.requests,
            "passages": self.passages,
            "search_units": self.search_units,
            "cost_usd": self.cost_usd,
            "refused": self.refused,
            "pairs_repeated": self.pairs_repeated,
            "sends": dict(zip(("answered", "spoiled", "refused"), self.sends(), strict=True)),
            "refusals": dict(self.refusals),
            "faults": dict(self.faults),
        }

    def to_bill(self) -> dict[str, Any]:
        """Return the bill as it is shown at ``/bill``: digests in hex with how often each."""
        return {
            "requests": self.requests,
            "search_units": self.search_units,
            "search_units_spoiled": self.search_units_spoiled,
            "cost_usd": self.cost_usd,
            "pairs": {pair.hex(): times for pair, times in self.pairs.items()},
            "pairs_spoiled": {pair.hex(): times for pair, times in self.pairs_spoiled.items()},
        }
