"""Makes networks smaller: narrower layers (pruning) and fewer bits (quantisation)."""
