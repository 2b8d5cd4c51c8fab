"""Read checkpoints of any supported format in slices."""
