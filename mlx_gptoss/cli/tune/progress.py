"""The line of progress of a training run."""

from typing import TYPE_CHECKING

from mlx_gptoss.cli.progress_line import ProgressLine, duration
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.workloads.tune.training_run import TuneProgress


class TrainingLine(ProgressLine):
    """Shows figures after each step, on stderr. Called in the engine's thread."""

    def __call__(self, progress: "TuneProgress") -> None:
        self.show(progress_text(progress), last=progress.step == progress.steps)


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
