"""Parse token ids into events, one id at a time; never raise."""

from mlx_gptoss.harmony.parse.parser import Parser, TokenSource

__all__ = [
    "Parser",
    "TokenSource",
]
