"""Redraw the last lines of the output, which may still change, in place.

    with LiveTail(sys.stdout) as tail:
        tail.paint(["finished line"], ["may", "change"])

Finished lines are printed once and scroll away like any output. Only the tail is
redrawn, and only its changed lines, in one write. The hidden cursor stays on the tail's
first line: terminals that rewrap lines when resized move it along, so erasing from the
cursor down is always right. Knows terminal lines, not their content.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self, TextIO

SYNC, END_SYNC = (
    "\x1b[?2026h",
    "\x1b[?2026l",
)  # synchronized output; ignored by terminals without it
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
CLIP, WRAP = "\x1b[?7l", "\x1b[?7h"  # cut lines that are wider than computed
ERASE_LINE, ERASE_BELOW = "\x1b[K", "\x1b[J"
SPARE = 2  # rows of the screen left free


class LiveTail:
    """Print finished lines above a tail of changing ones."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lines: list[str] = []
        self.size = shutil.get_terminal_size()

    def __enter__(self) -> Self:
        self._write(HIDE)
        return self

    def __exit__(self, *_: object) -> None:
        """Erase the tail and show the cursor."""
        self._write(f"\r{ERASE_BELOW}{SHOW}")
        self.lines = []

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Remove the tail for the length of the `with`; the next `paint` draws it."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    @property
    def room(self) -> int:
        """How many lines the tail may have on this screen."""
        return max(1, self.size.lines - SPARE)

    def measure(self) -> bool:
        """Query the size of the screen; return True if it changed."""
        before, self.size = self.size, shutil.get_terminal_size()
        return before != self.size

    def paint(self, done: Sequence[str], lines: Sequence[str]) -> None:
        """Print the finished lines `done`, then as many of the last `lines` as fit."""
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
        """Move down to the line `first` and write from there."""
        written = "\r\n".join(f"{line}{ERASE_LINE}" for line in lines[first:])
        return "\r\n" * first + written

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _common(lines: list[str], others: list[str]) -> int:
    """Count the equal lines at the start."""
    pairs = enumerate(zip(lines, others, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(lines), len(others)))
