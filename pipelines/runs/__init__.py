"""A run: its name, its checkpoints, and the lease that keeps it to one job at a time."""
