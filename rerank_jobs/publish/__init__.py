"""Publishing: scores merged into parts, made visible by one manifest, read back and checked."""
