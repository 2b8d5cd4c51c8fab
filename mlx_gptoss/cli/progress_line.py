"""A line of progress on stderr: rewritten on a terminal, else printed at times."""

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self

import click

from mlx_gptoss.cli.colours import redraws
from mlx_gptoss.cli.terminal import note

SECONDS_BETWEEN_LINES = 30  # where nothing can be rewritten
SECONDS_BETWEEN_DRAWINGS = 0.1
CLEAR_LINE = "\r\x1b[2K"


class ProgressLine:
    """Shows the newest text. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = -float("inf")
        self._open = False

    def show(self, text: str, *, last: bool = False) -> None:
        """Show a text, unless another one was shown a moment ago; the last always."""
        pause = SECONDS_BETWEEN_LINES
        with self._lock:
            drawn = redraws(sys.stderr)
            if drawn:
                pause = SECONDS_BETWEEN_DRAWINGS
            if not last and time.monotonic() - self._shown < pause:
                return
            self._shown = time.monotonic()
            if not drawn:
                note(text)
                return
            width = max(20, shutil.get_terminal_size().columns - 1)
            click.echo(f"{CLEAR_LINE}{text[:width]}", err=True, nl=False, color=True)
            self._open = True

    def close(self) -> None:
        """End the line. Idempotent."""
        with self._lock:
            if self._open:
                click.echo(err=True)
            self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def duration(seconds: float) -> str:
    """Format a duration: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
    )
