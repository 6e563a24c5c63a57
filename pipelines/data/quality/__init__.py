"""Judges new photos before training: no junk, no photo twice, none that shows the benchmark."""
