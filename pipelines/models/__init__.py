"""Builds networks, loads models, and reads and seals the bundles that they ship in."""
