"""Compile JSON schemas to grammars; `compile.py` is the entry point."""
