"""Merge an adapter into a checkpoint, measure the loss, or write the adapter alone."""
