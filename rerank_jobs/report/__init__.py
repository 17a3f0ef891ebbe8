"""What a run did: quality against judgements, movement; the demo's table and summary."""
