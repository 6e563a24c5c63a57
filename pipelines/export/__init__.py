"""A model becomes a bundle: artifacts, evidence, card."""
