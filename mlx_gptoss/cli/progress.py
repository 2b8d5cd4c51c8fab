"""A progress bar on stderr for long work; in a pipe, one line."""

import sys
from typing import Any, Self

import click

from mlx_gptoss.cli.colours import redraws
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes

WORTH_A_BAR = 10**8  # bytes: less is over before a bar is read


class ByteProgress:
    """Show progress from calls with `(bytes done, bytes in total)`."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._started = False
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int) -> None:
        if not self._started:
            self._start(done, total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start(self, done: int, total: int) -> None:
        self._started = True
        if total < WORTH_A_BAR:
            return
        if not redraws(sys.stderr):
            click.echo(self._line(done, total), err=True)
            return
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        # Begun with what is here: that is no part of the rate.
        self._task = self._bar.add_task(self.title, total=total, completed=done)

    def _line(self, _done: int, total: int) -> str:
        return f"{self.title}: {format_bytes(total)}"


class DownloadProgress(ByteProgress):
    """The same for a download: says where it resumes, and how to resume it."""

    def __init__(self, model: str) -> None:
        super().__init__(f"Downloading {model}")
        self._done = self._total = 0

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        super().__call__(done, total)

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        super().__exit__(kind, *others)
        if kind is KeyboardInterrupt and self._started:
            note(
                f"(stopped at {format_bytes(self._done)} of "
                f"{format_bytes(self._total)}, which stay: the same command goes on "
                "there)"
            )

    def say(self, line: str) -> None:
        """Print a message above the bar."""
        if self._bar is not None:
            self._bar.console.print(f"({line})", markup=False, highlight=False)
        else:
            note(f"({line})")

    def _start(self, done: int, total: int) -> None:
        if done and (total < WORTH_A_BAR or redraws(sys.stderr)):
            note(self._line(done, total))
        super()._start(done, total)

    def _line(self, done: int, total: int) -> str:
        resumed = f", resumed at {format_bytes(done)}" if done else ""
        return f"{super()._line(done, total)}{resumed}"
