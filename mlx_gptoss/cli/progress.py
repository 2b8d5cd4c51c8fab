"""A progress bar on stderr for what takes long; in a pipe, one line."""

import sys
from typing import Any

import click

from mlx_gptoss.memory import format_bytes

WORTH_A_BAR = 10**8  # bytes: less is over before a bar is read


class ByteProgress:
    """Shows calls of `(bytes done, bytes in all)`; nothing if there are none."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._started = False
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int) -> None:
        if not self._started:
            self._start(total)
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def __enter__(self) -> "ByteProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start(self, total: int) -> None:
        self._started = True
        if total < WORTH_A_BAR:
            return
        if not sys.stderr.isatty():
            click.echo(f"{self.title}: {format_bytes(total)}", err=True)
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
        self._task = self._bar.add_task(self.title, total=total)
