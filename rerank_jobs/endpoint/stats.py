"""What an endpoint has answered so far: the witness of tests that nothing is paid twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

__all__ = ["Stats"]


@dataclass(slots=True)
class Stats:
    """Counters over the life of one app; holds digests of pairs, never their text.

    ``requests``, ``passages`` and ``search_units`` count what was scored (and so billed);
    ``refused`` counts rerank requests that got an error; ``pairs_repeated`` the distinct (query,
    document) pairs that were scored more than once. Some 100 bytes are kept per distinct pair.
    """

    requests: int = 0
    passages: int = 0
    search_units: int = 0
    refused: int = 0
    _seen: set[bytes] = field(default_factory=set, repr=False)
    _repeated: set[bytes] = field(default_factory=set, repr=False)

    @property
    def pairs_repeated(self) -> int:
        """Distinct pairs that were scored more than once."""
        return len(self._repeated)

    def record(self, query: str, documents: Iterable[str], search_units: int) -> None:
        """Count one scored request."""
        query_digest = blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self.requests += 1
        self.search_units += search_units
        for document in documents:
            text = document.encode("utf-8", "surrogatepass")
            pair = blake2b(text, digest_size=16, key=query_digest).digest()
            self.passages += 1
            (self._repeated if pair in self._seen else self._seen).add(pair)

    def to_json(self) -> dict[str, int]:
        """Return the counters as they are shown at ``/stats``."""
        return {
            "requests": self.requests,
            "passages": self.passages,
            "search_units": self.search_units,
            "refused": self.refused,
            "pairs_repeated": self.pairs_repeated,
        }
