"""Publishing: scores merged into parts, parts made visible by one manifest, read back and checked."""
