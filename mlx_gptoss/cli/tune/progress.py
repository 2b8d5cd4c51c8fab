"""The line of progress of a training run: rewritten on a terminal, else at times."""

import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

import click

from mlx_gptoss.cli.colours import redraws
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.workloads.tune.training_run import TuneProgress

SECONDS_BETWEEN_LINES = 30  # where nothing can be rewritten
CLEAR_LINE = "\r\x1b[2K"


class TrainingLine:
    """Shows figures after each step, on stderr. Called in the engine's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = -float("inf")
        self._open = False

    def __call__(self, progress: "TuneProgress") -> None:
        text = progress_text(progress)
        last = progress.step == progress.steps
        with self._lock:
            if redraws(sys.stderr):
                width = max(20, shutil.get_terminal_size().columns - 1)
                click.echo(
                    f"{CLEAR_LINE}{text[:width]}", err=True, nl=False, color=True
                )
                self._open = True
            elif last or time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES:
                note(text)
                self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            click.echo(err=True)


def progress_text(progress: "TuneProgress") -> str:
    """Return one line: step, losses, speed, memory, time left."""
    parts = [f"step {progress.step:,}/{progress.steps:,}", f"loss {progress.loss:.4f}"]
    if progress.validation_loss is not None:
        parts.append(f"validation {progress.validation_loss:.4f}")
    parts += [
        f"{progress.tokens_per_second:,.0f} tok/s",
        format_bytes(progress.memory_bytes),
        f"{duration(progress.seconds_left)} left",
    ]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Format a duration: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return (
        f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
    )
