"""Carry out conversions: files, journal, model card and other output formats."""
