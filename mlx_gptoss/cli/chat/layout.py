"""Lay out parts as terminal lines, with colours if the terminal has any.

Lines never end in blanks, which would wrap when the window gets narrower.
"""

import re
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, RenderableType
from rich.text import Text
from rich.theme import Theme

from mlx_gptoss.cli.chat.markdown import MarkdownBlocks, OutputPart
from mlx_gptoss.cli.terminal import CONTROL

STYLES = {
    "markdown.code": "cyan",
    "markdown.h1": "bold underline",
    "markdown.h2": "bold",
    "markdown.h3": "bold",
    "markdown.h4": "italic",
    "markdown.link": "none",
    "markdown.link_url": "underline blue",
    "markdown.block_quote": "dim",
    "markdown.item.bullet": "dim",
    "markdown.item.number": "dim",
    "markdown.table.header": "bold",
    "markdown.table.border": "dim",
    "markdown.hr": "dim",
    "markdown.math": "none",
}
ESCAPE = r"\x1b\[[\d;]*m"
TRAILING = re.compile(rf"(?:{ESCAPE}| )+$")
MARGIN = 1  # columns left free: a full line wraps on some terminals
WIDEST = 100  # columns of running text; longer lines are hard to read


class ScreenLayout:
    """Lay out parts for one stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(
            file=stream or sys.stdout,
            theme=Theme(STYLES),
            highlight=False,
            markup=False,
            emoji=False,
        )

    def lines(self, parts: Sequence[OutputPart], columns: int) -> list[str]:
        """Lay out parts below each other, separated by blank lines."""
        found: list[str] = []
        for part in parts:
            lines = self.content(part.content, columns)
            if lines and not part.goes_on:
                found.append("")
            found += lines
        return found

    def content(self, content: RenderableType, columns: int) -> list[str]:
        """Lay out one renderable."""
        width = max(1, min(columns - MARGIN, WIDEST))
        with self.console.capture() as captured:
            self.console.print(content, width=width, soft_wrap=False)
        lines = [_without_blanks(line) for line in captured.get().split("\n")[:-1]]
        return _trimmed(lines) if isinstance(content, MarkdownBlocks) else lines


def clean(text: str) -> str:
    """Remove control sequences."""
    return CONTROL.sub("", text)


def dim(text: str) -> Text:
    return Text(clean(text), style="dim", overflow="fold")


def on_one_line(text: Text) -> Text:
    """Shorten a text to one line."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _without_blanks(line: str) -> str:
    cut = TRAILING.sub("", line)
    return cut + "\x1b[0m" if "\x1b" in cut else cut


def _trimmed(lines: list[str]) -> list[str]:
    """Drop blank lines at both ends."""
    full = [n for n, line in enumerate(lines) if line]
    return lines[full[0] : full[-1] + 1] if full else []
