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


class Tail:
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
        lines = list(lines)[-self.room :]
        moved = self.measure() or bool(done)
        if not moved and lines == self.lines:
            return
        if moved:
            text = f"\r{ERASE_BELOW}" + "".join(f"{line}\r\n" for line in done)
            text += self._below(lines, 0)
        else:
            text = self._below(lines, _common(lines, self.lines))
        self.lines = lines
        self._write(f"{SYNC}{text}{END_SYNC}")

    def _below(self, lines: list[str], first: int) -> str:
        """Write the lines from `first` on, and go back up to the tail's start."""
        text = CLIP + "\r\n" * first
        text += "\r\n".join(f"{line}{ERASE_LINE}" for line in lines[first:])
        if len(self.lines) > len(lines):
            text += ERASE_BELOW if lines[first:] else f"\r{ERASE_BELOW}"
        down = max(len(lines) - 1, first)
        return text + WRAP + (f"\x1b[{down}A" if down else "") + "\r"

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _common(lines: list[str], others: list[str]) -> int:
    """Count the lines at the start that are the same."""
    pairs = enumerate(zip(lines, others, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(lines), len(others)))
