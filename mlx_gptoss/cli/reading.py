"""A line on stderr that says how a prompt is read.

    line = ReadingLine()
    chat = Chat(runtime, on_progress=line.update)
    for event in line.watch(chat.send(text)): ...

It appears after a second, is redrawn as time goes by, and removed when the answer
begins. Nothing is shown where stderr is no terminal.
"""

import shutil
import sys
import threading
from collections.abc import Generator
from contextlib import closing
from time import perf_counter
from typing import TYPE_CHECKING, TextIO

from mlx_gptoss.cli.colours import coloured, redraws
from mlx_gptoss.cli.terminal import DIM, PLAIN

if TYPE_CHECKING:
    from mlx_gptoss.engine.prompt_progress import PromptProgress
    from mlx_gptoss.harmony.events import Event

WORTH_A_LINE = 1.0  # seconds: what is read sooner needs no word
REDRAW = 0.25  # seconds
ERASE = "\r\x1b[K"


def reading_text(progress: "PromptProgress | None") -> str:
    """Describe how a prompt is read now; "" in the first second, and at the end."""
    now = perf_counter()
    if progress is None or progress.finished:
        return ""
    elapsed = progress.seconds + now - progress.time
    return progress.describe(now) if elapsed >= WORTH_A_LINE else ""


class ReadingLine:
    """Show the reports of a Chat's `on_progress` on the last line of a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shows = redraws(self._stream)
        self._progress: PromptProgress | None = None
        self._drawing: threading.Thread | None = None
        self._answered = threading.Event()

    def update(self, progress: "PromptProgress") -> None:
        """Take a report, in any thread; does not block."""
        self._progress = progress
        if self._shows and self._drawing is None:
            self._answered.clear()
            self._drawing = threading.Thread(target=self._draw, daemon=True)
            self._drawing.start()

    def watch(self, events: Generator["Event"]) -> Generator["Event"]:
        """Yield the events of an answer; there is no line when one is yielded."""
        with closing(events), closing(self):
            for event in events:
                self.close()
                yield event

    def close(self) -> None:
        """Remove the line, until the next report."""
        drawing, self._drawing = self._drawing, None
        if drawing is not None:
            self._answered.set()
            drawing.join()

    def _draw(self) -> None:
        drawn = False
        while not self._answered.wait(REDRAW):
            if text := reading_text(self._progress):
                self._write(f"{ERASE}{self._styled(text)}")
                drawn = True
        if drawn:
            self._write(ERASE)

    def _styled(self, text: str) -> str:
        width = max(20, shutil.get_terminal_size().columns) - 1
        line = f"reading the prompt: {text}"[:width]
        return f"{DIM}{line}{PLAIN}" if coloured(self._stream) else line

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
