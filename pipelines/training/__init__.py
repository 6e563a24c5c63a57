"""Training: Ray Train launches, DeepSpeed steps, the loop is ours and small."""
