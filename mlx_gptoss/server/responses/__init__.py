"""Responses in progress, and the store of finished ones."""
