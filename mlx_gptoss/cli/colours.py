"""Whether a stream may be sent colours, or lines that are written anew."""

import os
from typing import TextIO


def wants_colour() -> bool:
    """Say whether the user wants colour (https://no-color.org), and a terminal may."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(stream: TextIO) -> bool:
    """Say whether `stream` is a terminal that may use colour."""
    return stream.isatty() and wants_colour()


def redraws(stream: TextIO) -> bool:
    """Say whether `stream` is a terminal on which a line can be written anew."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
