"""The ledger: paid replies sealed in immutable segments, claims on shards, the score library."""
