"""The ledger: every paid reply sealed in immutable segments, claims on shards, the score library."""
