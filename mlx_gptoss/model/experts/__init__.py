"""Experts of a layer: resident or streamed storage, and computing with either."""
