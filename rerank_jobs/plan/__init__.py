"""Planning: identity, context windows, search-unit packing, and clustering a table into shards."""
