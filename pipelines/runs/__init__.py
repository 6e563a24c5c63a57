"""Holds a run: its name, its checkpoints, and the lease that lets only one job train it."""
