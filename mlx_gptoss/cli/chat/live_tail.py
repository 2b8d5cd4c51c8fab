"""The end of the output that may still change, redrawn in place.

    with Tail(sys.stdout) as tail:
        tail.paint(["done for good"], ["may", "change"])

What is done is printed once and scrolls away like any output. Only the tail is
written again, and of it only the lines that changed, in one write. The cursor rests
hidden at the tail's first line: terminals that wrap lines anew when they are resized
take it along, so "erase from here on" is right whatever they did to the text.
Knows lines of a terminal, not what they say.
"""

import shutil
from collections.abc import Sequence
from typing import Self, TextIO

SYNC, END_SYNC = "\x1b[?2026h", "\x1b[?2026l"  # shown as one; ignored where unknown
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
CLIP, WRAP = "\x1b[?7l", "\x1b[?7h"  # a line that is wider than we think is cut
ERASE_LINE, ERASE_BELOW = "\x1b[K", "\x1b[J"
SPARE = 2  # rows of the screen that a tail leaves


class LiveTail:
    """Prints lines above a tail of lines that change."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lines: list[str] = []
        self.size = shutil.get_terminal_size()

    def __enter__(self) -> Self:
        self._write(HIDE)
        return self

    def __exit__(self, *_: object) -> None:
        """Erase the tail and give the cursor back."""
        self._write(f"\r{ERASE_BELOW}{SHOW}")
        self.lines = []

    @property
    def room(self) -> int:
        """How many lines a tail may have on this screen."""
        return max(1, self.size.lines - SPARE)

    def measure(self) -> bool:
        """Ask for the size of the screen; True if it is another than before."""
        before, self.size = self.size, shutil.get_terminal_size()
        return before != self.size

    def paint(self, done: Sequence[str], lines: Sequence[str]) -> None:
        """Print `done` for good and show `lines` below; the last that fit."""
        resized = self.measure()
        lines = list(lines)[-self.room :]
        if not resized and not done and lines == self.lines:
            return
        first = 0 if resized or done else _common(lines, self.lines)
        text = "\r" + "".join(f"{line}{ERASE_LINE}\r\n" for line in done)
        text += f"{CLIP}{self._below(lines, first)}"
        if resized or len(self.lines) > len(done) + len(lines):
            # At the end: tmux keeps a copy of a screen that is erased from its top.
            text += ERASE_BELOW
        down = max(len(lines) - 1, first)
        text += WRAP + (f"\x1b[{down}A" if down else "") + "\r"
        self.lines = lines
        self._write(f"{SYNC}{text}{END_SYNC}")

    def _below(self, lines: list[str], first: int) -> str:
        """Go down to the line `first` and write from there on."""
        written = "\r\n".join(f"{line}{ERASE_LINE}" for line in lines[first:])
        return "\r\n" * first + written

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _common(lines: list[str], others: list[str]) -> int:
    """Count the lines at the start that are the same."""
    pairs = enumerate(zip(lines, others, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(lines), len(others)))
