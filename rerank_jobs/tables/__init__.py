"""Parquet in and out: input tables, document rendering, the deterministic sink."""
