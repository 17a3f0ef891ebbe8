"""What sending costs: per shard, and the naive price that planning is measured against."""

from __future__ import annotations

from dataclasses import dataclass, fields

import duckdb

from rerank_jobs.config import Endpoint

__all__ = ["BISECTING_UNITS", "Quantity", "ShardPrice", "allow", "find_naive"]

BISECTING_UNITS = 8
"""Search units beyond the plan that finding one poisonous document may cost: a request of one unit
is halved seven times at most, and each half that is scored costs a unit."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What endpoints charge for: search units, and tokens of (query, passage) pairs."""

    units: int = 0
    tokens: int = 0

    def cost(self, endpoint: Endpoint) -> float:
        """Return the planned price (USD), rounded to a millionth."""
        return round(self.units * endpoint.price_usd + self.tokens * endpoint.token_price_usd, 6)


@dataclass(frozen=True, slots=True)
class ShardPrice:
    """What one shard will send: distinct passages, requests, search units, tokens.

    ``bound_units`` is the fewest units that any packing could cost. ``distinct_*`` is one request
    per distinct query with all its passages, ``missing_*`` the same without what is reused.
    ``widest_*`` are the most units and tokens of one request. ``units`` take the dearer reading of
    the 500-token rule, ``units_query_once`` the cheaper one for the same requests. ``cheapest_*``
    and ``strict_*`` are what is sent under either mode of reuse.
    """

    passages: int = 0
    reused: int = 0
    requests: int = 0
    units: int = 0
    tokens: int = 0
    bound_units: int = 0
    distinct_units: int = 0
    distinct_tokens: int = 0
    missing_units: int = 0
    widest_units: int = 0
    widest_tokens: int = 0
    units_query_once: int = 0
    cheapest_passages: int = 0
    cheapest_units: int = 0
    cheapest_tokens: int = 0
    strict_passages: int = 0
    strict_units: int = 0
    strict_tokens: int = 0

    def plus(self, other: ShardPrice) -> ShardPrice:
        """Add two prices; of the widest requests the wider counts."""
        added = {}
        for field in fields(self):
            one, two = getattr(self, field.name), getattr(other, field.name)
            added[field.name] = max(one, two) if field.name.startswith("widest") else one + two
        return ShardPrice(**added)

    @property
    def sent(self) -> Quantity:
        """What is sent, all together."""
        return Quantity(self.units, self.tokens)


def allow(price: ShardPrice, endpoint: Endpoint) -> float:
    """Return a shard's allowance (USD), 0 if it sends nothing.

    Planned cost x 1.05 and the dearer of one retry of the dearest request and bisecting around one
    poisonous document (decision 0010).
    """
    if price.requests == 0:
        return 0.0
    usd, token_usd = endpoint.price_usd, endpoint.token_price_usd
    planned = price.units * usd + price.tokens * token_usd
    retry = price.widest_units * usd + price.widest_tokens * token_usd
    return round(planned * 1.05 + max(retry, BISECTING_UNITS * usd), 6)


def find_naive(con: duckdb.DuckDBPyConnection) -> tuple[Quantity, Quantity]:
    """Return the naive price, and the part of it that groups of one candidate have.

    Naive is one request per group as it stands, pairs and queries as often as they are repeated.
    Read from the narrow tables ``ranked`` and ``sends``; refused passages cost nothing.
    """
    row = con.execute("""
        SELECT sum(units), sum(tokens), sum(units) FILTER (alone), sum(tokens) FILTER (alone)
        FROM (SELECT (sum(s.chunks) + 99) // 100 AS units, sum(s.tokens) AS tokens,
                any_value(r.n) = 1 AS alone
            FROM ranked AS r JOIN (SELECT * FROM sends WHERE error IS NULL) AS s
            ON r.query_key = s.query_key AND r.doc_key = s.doc_key GROUP BY r.grp)""").fetchone()
    units, tokens, alone_units, alone_tokens = (int(value or 0) for value in row or (0, 0, 0, 0))
    return Quantity(units, tokens), Quantity(alone_units, alone_tokens)
