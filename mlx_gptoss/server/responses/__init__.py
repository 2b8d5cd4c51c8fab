"""Responses under way and those in the store."""
