"""Read single keys while an answer is streamed, without echo or Enter.

Ctrl-C remains a signal, so that it always works. Ctrl-Z is a key, because the screen
has to be restored before the program is suspended.
"""

import os
import select
import sys
import termios
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys

ESCAPE_SECONDS = 0.05  # a lone Esc is followed by nothing for this long
TERMINAL = "/dev/tty"
CHUNK = 4096
# Pasted text is one key: its letters were not pressed.
PASTES, TYPES = "\x1b[?2004h", "\x1b[?2004l"


class KeyReader:
    """Read keys of the terminal inside a `with`, even if stdin is a pipe."""

    def __init__(self) -> None:
        self._own: int | None = None
        self._pressed: list[KeyPress] = []
        self._parser = Vt100Parser(self._pressed.append)
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Self:
        if sys.stdin.isatty():
            self._fd = sys.stdin.fileno()
        else:
            self._fd = self._own = os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY)
        self._before = termios.tcgetattr(self._fd)
        self._begin()
        return self

    def _begin(self) -> None:
        mode = termios.tcgetattr(self._fd)
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        disabled = os.fpathconf(self._fd, "PC_VDISABLE")
        mode[6][termios.VSUSP] = bytes([disabled])  # the cursor is hidden
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)
        self._write(PASTES)

    def _end(self) -> None:
        self._write(TYPES)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Give the terminal back for the length of the `with`."""
        self._end()
        try:
            yield
        finally:
            self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if self._own is not None:
            os.close(self._own)

    def wait(self, seconds: float) -> list[KeyPress]:
        """Return the keys pressed, waiting at most `seconds` for the first."""
        if self._readable(seconds):
            while self._readable(0):
                data = os.read(self._fd, CHUNK)
                if not data:  # the terminal is gone
                    break
                self._parser.feed(self._decoder.decode(data))
            if not self._readable(ESCAPE_SECONDS):
                self._parser.flush()
        pressed = list(self._pressed)
        self._pressed.clear()
        return pressed

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self._fd], [], [], seconds)[0])


def typed_text(press: KeyPress) -> str:
    """Return the text that a key types, or an empty text."""
    if press.key == Keys.BracketedPaste:
        return press.data.replace("\r\n", "\n").replace("\r", "\n")
    if press.key in (Keys.ControlM, Keys.ControlJ):
        return "\n"
    return press.key if len(press.key) == 1 else ""
