"""Benchmarks: figures measured in one run, no verdicts."""
