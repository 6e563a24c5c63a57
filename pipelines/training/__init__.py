"""Training: Ray Train starts the ranks, DeepSpeed makes their steps, and the loop is our own."""
